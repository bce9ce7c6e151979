"""Convolutional networks of Polino et al. (ICLR 2018, appendix A.1), with batch normalisation.

Each convolution: conv (bias, same padding) → ReLU → batch norm → [2×2 max-pool] → [dropout of whole channels]. Then
fully connected layers: linear → ReLU → batch norm → [dropout]. Then the output layer, followed by ReLU if `relu_logits`
is set, as in the public code. The first weights are Glorot-uniform, the first biases 0. The sizes of the layers and the
dropout rates are those of the public code (antspy/quantized_distillation).
"""

from typing import TYPE_CHECKING

from kdqat_cli.networks.net import Net, Shapes

if TYPE_CHECKING:
    from kdqat_cli.networks.conv_model import ConvConfig, ConvNet

_C10_TEACHER = (76, 76, 126, 126, 148, 148, 148, 148)
_DEEPER = (76,) * 3 + (126,) * 3 + (148,) * 5


def _student(channels: tuple[int, ...], hidden: int) -> dict[str, object]:
    """A small network of Polino et al., without dropout, which they use only in the run without a teacher."""
    return {"channels": channels, "kernel": 5, "pool_after": (2, 4), "hidden": (hidden,)}


SHAPES: Shapes = {
    "conv-teacher": {
        "channels": _C10_TEACHER,
        "kernel": 3,
        "pool_after": (2, 4, 8),
        "hidden": (1200, 1200),
        "channel_dropout": {"2": 0.2, "4": 0.3, "8": 0.35},
        "hidden_dropout": 0.4,
    },
    "conv-student-1": _student((75, 50, 50, 25), 500),
    "conv-student-2": _student((50, 25, 25, 10), 400),
    "conv-student-3": _student((25, 10, 10, 5), 300),
    "conv-deeper": {
        "channels": _DEEPER,
        "kernel": 3,
        "pool_after": (3, 6, 11),
        "hidden": (1000, 1000, 1000),
        "channel_dropout": {"3": 0.2, "6": 0.3, "11": 0.35},
        "hidden_dropout": 0.4,
    },
    "conv-digits": {"channels": (32, 32, 64, 64), "kernel": 3, "pool_after": (2, 4), "hidden": (128,)},
    "conv-digits-small": {"channels": (8, 8), "kernel": 3, "pool_after": (1, 2), "hidden": (32,)},
}
_ABOUT = {
    "conv-teacher": "5.3 million parameters, CIFAR-10 teacher of Polino et al.",
    "conv-student-1": "1.0 million, student 1 of Polino et al.",
    "conv-student-2": "0.3 million, student 2 of Polino et al.",
    "conv-student-3": "0.1 million, student 3 of Polino et al.",
    "conv-deeper": "5.8 million, the deeper student of Polino et al.",
    "conv-digits": "for images of 8 × 8 pixels",
    "conv-digits-small": "a small student of conv-digits",
}


def _classes() -> "tuple[type[ConvConfig], type[ConvNet]]":
    from kdqat_cli.networks.conv_model import ConvConfig, ConvNet

    return ConvConfig, ConvNet


CONV = Net("kdqat-conv", "image", _classes, SHAPES, first="convolutions.0.conv", last="output", about=_ABOUT)
