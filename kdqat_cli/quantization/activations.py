"""8-bit activations: symmetric, dynamic, straight-through (Kim et al., EMNLP 2022, section 2.1).

    s = max|x| / 127,  x̂ = s · round(x / s)

What shares a scale
- token: one vector along the last dimension, that is one token of a hidden state, one token and head of Q, K and V,
  one query of the attention probabilities. A prediction then depends neither on the other rows of its batch nor on
  their padding, and training sees exactly what inference computes.
- batch: the whole tensor, padding included, as in the public code. A prediction then depends on its batch.

Zeros stay zero. |x̂ - x| ≤ s / 2 within the clamp.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


class _StraightThroughRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, levels: int, clip: float | None, shared: bool) -> Tensor:
        # Two reductions that read, instead of one of a copy |x|.
        dims = tuple(range(values.dim())) if shared else (-1,)
        largest = torch.maximum(values.amax(dims, keepdim=True), -values.amin(dims, keepdim=True))
        ctx.clamped = clip is not None and _reaches(largest, clip)
        if clip is not None and ctx.clamped:
            ctx.save_for_backward(values.abs() < clip)
            largest = largest.clamp(max=clip)
        # The smallest normal number instead of 0: a vector of zeros then gives 0, not 0/0.
        scale = (largest / levels).clamp(min=torch.finfo(values.dtype).tiny)
        rounded = torch.div(values, scale, out=torch.empty(values.shape, dtype=values.dtype, device=values.device))
        rounded.round_()
        if ctx.clamped:
            rounded.clamp_(-levels, levels)
        return rounded.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grad_outputs
        if ctx.clamped:
            (inside,) = ctx.saved_tensors
            grad = torch.where(inside, grad, 0)
        return grad, None, None, None


def _reaches(largest: Tensor, clip: float) -> bool:
    """Whether anything may lie at or beyond the clamp; a GPU is not waited for, and is taken to have such values."""
    return largest.device.type != "cpu" or bool((largest >= clip).any())


@dataclass(frozen=True)
class ActivationQuantizer:
    """Rounds activations.

    Attributes:
        bits: of the rounded values.
        clip: values are clamped to ±clip first, and get no gradient where |x| ≥ clip; None: no clamp.
        scale: what shares a scale, a vector of the last dimension or the whole tensor.
    """

    bits: int
    clip: float | None
    scale: Literal["token", "batch"] = "token"

    def __call__(self, values: Tensor) -> Tensor:
        """The quantised values, (..., D) → (..., D); gradient straight-through."""
        levels = 2 ** (self.bits - 1) - 1
        out: Tensor = _StraightThroughRound.apply(values, levels, self.clip, self.scale == "batch")  # type: ignore[no-untyped-call]
        return out
