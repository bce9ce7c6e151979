"""The weight quantisers: one interface, one catalogue.

A latent weight is clamped, quantised again in each forward pass, and gets a straight-through gradient. Scales, offsets
and thresholds get no gradient of their own.

    weights    number of values
    ternary    -α, 0, +α               ternary.py
    int4       15, uniform around 0    symmetric.py
    int8       255, uniform around 0   symmetric.py
    uniform    2^bits, in buckets      uniform.py
    points     2^bits, in buckets      points.py; learned.py trains the points

    gradient      ∂L/∂w, with g = ∂L/∂ŵ
    plain         g, and 0 where |w| reaches the clamp
    truncated     as plain, with w clamped to ±1, and 0 where |w| > 1 (the public code of Polino et al.)
    complicated   as plain, plus the effect of a bucket's extremes on its other weights (uniform.range_gradient)

To add a quantiser, write a class with the members of `WeightQuantizer`, and add it to `WEIGHTS` and `LEVELS`; from
outside, call `register`. The quantiser can then train, freeze, save, load and pack. The engine and the export formats
take it if its levels are -1, 0 and 1, with one scale per matrix (per row in the word embedding).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdqat_cli.autograd import Context
from kdqat_cli.config import GradientName, Quantization
from kdqat_cli.names import LEVELS
from kdqat_cli.quantizers.codes import Codes, Grouping
from kdqat_cli.quantizers.points import Points
from kdqat_cli.quantizers.symmetric import Symmetric
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform, range_gradient


class WeightQuantizer(Protocol):
    """Computes the codes of a latent weight. One that draws them at random has an attribute `draws`, which is true."""

    @property
    def name(self) -> str:
        """The value of `--weights`."""

    @property
    def levels(self) -> Collection[int]:
        """The integers that the weights are multiples of."""

    @property
    def grouping(self) -> Grouping | None:
        """What shares a scale, in every layer; None: one scale per matrix in a linear, one per row in an embedding."""

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The codes of a latent weight of any floating type, without a gradient."""


class LatentQuantizer(Protocol):
    """Quantises the latent weight of a layer at each use, with a gradient."""

    @property
    def quantizer(self) -> WeightQuantizer:
        """The quantiser that it applies."""

    @property
    def clip(self) -> float | None:
        """The latent weight is clamped to ±clip first; None: no clamp."""

    def __call__(self, latent: Tensor, grouping: Grouping) -> Tensor:
        """The quantised weight, in the shape of the latent weight."""

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The codes of the quantised weight."""


WEIGHTS: dict[str, Callable[[Quantization], WeightQuantizer]] = {
    "ternary": lambda _: Ternary(),
    "int4": lambda _: Symmetric(bits=4),
    "int8": lambda _: Symmetric(bits=8),
    "uniform": lambda settings: Uniform(settings.bits, settings.bucket, settings.rounding),
    "points": lambda settings: Points(2**settings.bits, settings.bucket, settings.start),
}
"""Value of `--weights` → a function from the settings to the quantiser."""


def register(quantizer: WeightQuantizer) -> None:
    """Adds a quantiser to the catalogue; its name is then a value of `--weights`.

    Raises:
        ValueError: the name is taken.
    """
    LEVELS.add(quantizer.name, lambda _: quantizer.levels)
    WEIGHTS[quantizer.name] = lambda _: quantizer


@dataclass(frozen=True)
class StraightThrough:
    """Quantises latent weights that are trained with a straight-through gradient.

    Attributes:
        quantizer: the quantiser that it applies.
        clip: the latent weight is clamped to ±clip first, and gets no gradient where |w| ≥ clip; None: no clamp.
        gradient: see the head of this file.
    """

    quantizer: WeightQuantizer
    clip: float | None
    gradient: GradientName = "plain"

    @classmethod
    def of(cls, settings: Quantization) -> "StraightThrough":
        """The quantiser for these settings."""
        return cls(WEIGHTS[settings.weights](settings), settings.weight_clip, settings.gradient)

    def __call__(self, latent: Tensor, grouping: Grouping) -> Tensor:
        """The quantised weight in the shape of the latent weight, with the straight-through gradient."""
        out: Tensor = _StraightThrough.apply(latent, self, grouping)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The codes of the quantised weight."""
        return self.quantizer.codes(self.clamped(latent), grouping)

    def clamped(self, latent: Tensor) -> Tensor:
        """The latent weight after the clamp."""
        clip = self.clip
        if self.gradient == "truncated":
            clip = 1.0 if clip is None else min(clip, 1.0)
        return latent if clip is None else latent.clamp(-clip, clip)


class _WeightContext(Context, Protocol):
    quantizer: StraightThrough
    grouping: Grouping


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _WeightContext, latent: Tensor, quantizer: StraightThrough, grouping: Grouping) -> Tensor:
        ctx.quantizer, ctx.grouping = quantizer, grouping
        value = quantizer.codes(latent, grouping).value()
        if quantizer.gradient == "complicated":
            ctx.save_for_backward(latent, value)
        elif quantizer.gradient == "truncated" or quantizer.clip is not None:
            ctx.save_for_backward(latent)
        return value

    @staticmethod
    def backward(ctx: _WeightContext, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        quantizer = ctx.quantizer
        if quantizer.gradient == "complicated":
            latent, value = ctx.saved_tensors
            grad = range_gradient(grad, quantizer.clamped(latent), value, ctx.grouping)
        if quantizer.gradient == "truncated":
            (latent,) = ctx.saved_tensors
            grad = torch.where(latent.abs() <= 1, grad, 0)
        if quantizer.clip is not None:
            latent = ctx.saved_tensors[0]
            grad = torch.where(latent.abs() < quantizer.clip, grad, 0)
        return grad, None, None
