"""The torch classes of the wide residual networks; wide_resnet.py explains what they compute and names the sources."""

from torch import Tensor, channels_last, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

_STEM = 16
_LAST_MOMENTUM = 0.9
_DEEPEST = 1000


class WideResnetConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a wide residual network.

    Attributes:
        image: channels, height and width of an image.
        depth: number of layers with weights: 6n + 4 for n blocks per stage.
        width: k; the stages have 16k, 32k and 64k channels.
        dropout: dropout rate in a block.
    """

    model_type = "kdqat-wide-resnet"
    image: tuple[int, ...] = (3, 32, 32)
    depth: int = 28
    width: int = 10
    dropout: float = 0.0


class Block(nn.Module):
    """Adds to its input the result of two convolutions, each after batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, rate: float) -> None:
        """Sets the sizes; `rate` 0: no dropout."""
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(rate)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        out = self.dropout(self.conv1(self.norm1(values).relu()))
        result: Tensor = self.conv2(self.norm2(out).relu()) + self.shortcut(values)
        return result


class WideResnet(PreTrainedModel):  # type: ignore[misc]
    """Classifies images."""

    config_class = WideResnetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: WideResnetConfig) -> None:
        """Random weights of the given sizes."""
        super().__init__(config)
        if not 10 <= config.depth <= _DEEPEST or config.depth % 6 != 4:
            raise ValueError(f"the depth must be 6n + 4, from 10 to {_DEEPEST}, got {config.depth}")
        blocks: list[nn.Module] = []
        inputs = _STEM
        for stage in range(3):
            outputs = _STEM * config.width * 2**stage
            for number in range((config.depth - 4) // 6):
                stride = 2 if stage and not number else 1
                blocks.append(Block(inputs, outputs, stride, config.dropout))
                inputs = outputs
        self.stem = nn.Conv2d(config.image[0], _STEM, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs, momentum=_LAST_MOMENTUM)
        self.output = nn.Linear(inputs, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=2**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor, **_: object) -> ImageClassifierOutputWithNoAttention:
        """Logits (B, labels) of images (B, C, H, W)."""
        images = pixel_values.contiguous(memory_format=channels_last)  # makes convolutions faster
        values = self.norm(self.blocks(self.stem(images))).relu().mean((2, 3))
        return ImageClassifierOutputWithNoAttention(logits=self.output(values))
