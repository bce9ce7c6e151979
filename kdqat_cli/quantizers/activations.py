"""8-bit activations: symmetric, dynamic, straight-through (Kim et al., EMNLP 2022, section 2.1).

    s = max|x| / 127,  x̂ = s · round(x / s)

What shares a scale
- token: one vector along the last dimension. This is one token of a hidden state, one token and head of Q, K and V, or
  one query of the attention probabilities. A prediction then does not depend on the other rows of its batch or on
  padding, and training computes exactly what inference computes.
- batch: the whole tensor with its padding, as in the public code. A prediction then depends on its batch.

Zeros stay zero. |x̂ - x| ≤ s / 2 within the clamp.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from kdqat_cli.autograd import Context
from kdqat_cli.native import fused
from kdqat_cli.quantizers.remembered import Remembered


@dataclass(frozen=True)
class Rounded:
    """Quantised activations as x̂ = values · scale.

    Attributes:
        values: (..., D), int8.
        scale: (..., 1), or (1, ..., 1) for one shared scale.
        inside: (..., D), true where |x| is below the clamp; None: everywhere.
    """

    values: Tensor
    scale: Tensor
    inside: Tensor | None


@dataclass(frozen=True)
class ActivationQuantizer:
    """Rounds activations.

    Attributes:
        bits: number of bits of a rounded value.
        clip: values are clamped to ±clip first, and get no gradient where |x| ≥ clip; None: no clamp.
        scale: what shares a scale: a vector of the last dimension, or the whole tensor.
    """

    bits: int
    clip: float | None
    scale: Literal["token", "batch"] = "token"
    _last: Remembered[Rounded] = field(default_factory=Remembered, compare=False, repr=False)

    def __call__(self, values: Tensor) -> Tensor:
        """The quantised values, (..., D) → (..., D), with the straight-through gradient."""
        out: Tensor = _StraightThroughRound.apply(values, self)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def rounded(self, values: Tensor) -> Rounded:
        """The quantised values as integers and scales.

        The last result is remembered, because Q, K and V have the same input.
        """
        return self._last(self._rounded, values)

    def _rounded(self, values: Tensor) -> Rounded:
        if self._fuses(values):
            return Rounded(*self._fused(values))
        rounded, scale, inside = self.round(values)
        return Rounded(rounded.to(torch.int8), scale, inside)

    def quantized(self, values: Tensor) -> tuple[Rounded, Tensor]:
        """The integers and scales, and the quantised values (..., D)."""
        if self._fuses(values):
            value = torch.empty(values.shape)
            return Rounded(*self._fused(values, value)), value
        rounded, scale, inside = self.round(values)
        return Rounded(rounded.to(torch.int8), scale, inside), rounded.mul_(scale)

    def _fuses(self, values: Tensor) -> bool:
        return self.bits == 8 and fused.fuses(values)

    def _fused(self, values: Tensor, into: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return fused.rounded(values, self.clip, self.scale == "batch", into)

    def round(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rounds values.

        Returns:
            The integers x / s (..., D) in the type of x; the scales s; where |x| is below the clamp (None: everywhere).
        """
        levels = 2 ** (self.bits - 1) - 1
        # Two reductions of x are faster than one of |x|, which would be a copy.
        dims = (-1,) if self.scale == "token" else tuple(range(values.dim()))
        largest = torch.maximum(values.amax(dims, keepdim=True), -values.amin(dims, keepdim=True))
        inside = None
        if self.clip is not None and _reaches(largest, self.clip):
            inside = values.abs() < self.clip
            largest = largest.clamp(max=self.clip)
        # At least the smallest normal number, so that a vector of zeros gives 0 and not 0/0.
        scale = (largest / levels).clamp(min=torch.finfo(values.dtype).tiny)
        # The result is contiguous: Q, K and V are strided views of their heads, and a matrix product would copy them.
        rounded = torch.div(values, scale, out=torch.empty(values.shape, dtype=values.dtype, device=values.device))
        rounded.round_()
        return rounded if inside is None else rounded.clamp_(-levels, levels), scale, inside


def masked(values: Tensor, kept: Tensor) -> Tensor:
    """The values where `kept` is true, else 0; `kept` is a boolean tensor of the same shape."""
    # On a CPU, torch.where and a product with booleans take two to four times as long as this product with bytes.
    return kept.view(torch.uint8).to(values.dtype).mul_(values)


def _reaches(largest: Tensor, clip: float) -> bool:
    """Whether a value may reach the clamp. On a GPU always true, because the check would wait for the GPU."""
    return largest.device.type != "cpu" or bool((largest >= clip).any())


class _RoundContext(Context, Protocol):
    inside: Tensor | None


class _StraightThroughRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _RoundContext, values: Tensor, quantizer: ActivationQuantizer) -> Tensor:
        if quantizer._fuses(values):
            integers, value = quantizer.quantized(values)
            ctx.inside = integers.inside
            return value
        rounded, scale, ctx.inside = quantizer.round(values)
        return rounded.mul_(scale)

    @staticmethod
    def backward(ctx: _RoundContext, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        return grad if ctx.inside is None else masked(grad, ctx.inside), None
