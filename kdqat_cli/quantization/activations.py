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
        ctx.clip = clip
        clamped = values
        if clip is not None:
            ctx.save_for_backward(values)
            clamped = values.clamp(-clip, clip)
        # The smallest normal number instead of 0: a vector of zeros then gives 0, not 0/0.
        largest = clamped.abs().amax() if shared else clamped.abs().amax(-1, keepdim=True)
        scale = (largest / levels).clamp(min=torch.finfo(values.dtype).tiny)
        return (clamped / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grad_outputs
        if ctx.clip is not None:
            (values,) = ctx.saved_tensors
            grad = torch.where(values.abs() < ctx.clip, grad, 0)
        return grad, None, None, None


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
