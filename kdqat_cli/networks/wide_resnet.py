"""Wide residual networks (Zagoruyko and Komodakis, 2016), as in the public code of Polino et al.

A network is a stem of 16 channels, three stages of (depth - 4) / 6 blocks with 16k, 32k and 64k channels, batch norm,
ReLU, the mean over the image, and an output layer; k is the width. A block adds to its input

    conv3×3 ∘ ReLU ∘ norm ∘ dropout ∘ conv3×3 ∘ ReLU ∘ norm

The second convolution of the first block of the stages 2 and 3 has stride 2. If the size changes, a 1×1 convolution of
the raw input replaces the input. All convolutions have biases. The first weights are Glorot-uniform with gain √2, the
first biases 0. In the running mean of the last batch norm, a batch has the weight 0.9.
"""

from typing import TYPE_CHECKING

from kdqat_cli.networks.net import Net, Shapes

if TYPE_CHECKING:
    from kdqat_cli.networks.wide_resnet_model import WideResnet, WideResnetConfig

SHAPES: Shapes = {
    f"wide-{depth}-{width}": {"depth": depth, "width": width, "dropout": 0.3}
    for depth, width in ((28, 20), (16, 22), (28, 10), (22, 8), (16, 10), (16, 4), (10, 1))
}
_ABOUT = {
    "wide-28-20": "145.8 million parameters, CIFAR-10 teacher of Polino et al.",
    "wide-16-22": "82.7 million, its student",
    "wide-28-10": "36.5 million, CIFAR-100 teacher",
    "wide-22-8": "17.2 million, a CIFAR-100 student",
    "wide-16-10": "17.2 million, a CIFAR-100 student",
    "wide-16-4": "2.8 million",
    "wide-10-1": "0.1 million",
}


def _classes() -> "tuple[type[WideResnetConfig], type[WideResnet]]":
    from kdqat_cli.networks.wide_resnet_model import WideResnet, WideResnetConfig

    return WideResnetConfig, WideResnet


WIDE_RESNET = Net("kdqat-wide-resnet", "image", _classes, SHAPES, first="stem", last="output", about=_ABOUT)
