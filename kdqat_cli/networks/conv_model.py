"""The torch classes of the convolutional networks; conv.py explains what they compute and names the sources."""

from itertools import pairwise

from torch import Tensor, channels_last, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class ConvConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a convolutional network.

    Attributes:
        image: channels, height and width of an image.
        channels: output channels of each convolution.
        kernel: height and width of every kernel.
        pool_after: numbers, from 1, of the convolutions before a 2×2 max-pool.
        hidden: widths of the fully connected layers before the output layer.
        channel_dropout: number of a convolution → rate of the dropout after it.
        hidden_dropout: dropout rate after each of the first two fully connected layers.
        relu_logits: whether ReLU follows the output layer.
    """

    model_type = "kdqat-conv"
    image: tuple[int, ...] = (3, 32, 32)
    channels: tuple[int, ...] = ()
    kernel: int = 3
    pool_after: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    channel_dropout: dict[str, float] | None = None
    hidden_dropout: float = 0.0
    relu_logits: bool = False


class Convolution(nn.Module):
    """conv → ReLU → batch norm → [max-pool] → [dropout of channels]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, pool: bool, rate: float) -> None:
        """Sets the sizes; `rate` 0: no dropout."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.dropout = nn.Dropout2d(rate)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H or H/2, W or W/2)."""
        out: Tensor = self.dropout(self.pool(self.norm(self.conv(images).relu())))
        return out


class Dense(nn.Module):
    """linear → ReLU → batch norm → [dropout]."""

    def __init__(self, inputs: int, outputs: int, rate: float) -> None:
        """Sets the sizes; `rate` 0: no dropout."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs)
        self.dropout = nn.Dropout(rate)

    def forward(self, values: Tensor) -> Tensor:
        """(B, I) → (B, O)."""
        out: Tensor = self.dropout(self.norm(self.linear(values).relu()))
        return out


class ConvNet(PreTrainedModel):  # type: ignore[misc]
    """Classifies images."""

    config_class = ConvConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvConfig) -> None:
        """Random weights of the given sizes."""
        super().__init__(config)
        channels, height, width = config.image
        rates, layers = config.channel_dropout or {}, []
        for number, outputs in enumerate(config.channels, 1):
            pool = number in config.pool_after
            layers.append(Convolution(channels, outputs, config.kernel, pool, rates.get(str(number), 0.0)))
            channels, height, width = outputs, height // (1 + pool), width // (1 + pool)
        self.convolutions = nn.Sequential(*layers)
        sizes = [channels * height * width, *config.hidden]
        dense = [
            Dense(inputs, outputs, config.hidden_dropout if place < 2 else 0.0)
            for place, (inputs, outputs) in enumerate(pairwise(sizes))
        ]
        self.dense = nn.Sequential(*dense)
        self.output = nn.Linear(sizes[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, **_: object) -> ImageClassifierOutputWithNoAttention:
        """Logits (B, labels) of images (B, C, H, W)."""
        images = pixel_values.contiguous(memory_format=channels_last)  # faster for convolutions with few channels
        logits = self.output(self.dense(self.convolutions(images).flatten(1)))
        return ImageClassifierOutputWithNoAttention(logits=logits.relu() if self.config.relu_logits else logits)
