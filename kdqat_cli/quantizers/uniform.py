"""Uniform quantisation in buckets (Polino, Pascanu and Alistarh, ICLR 2018, section 3).

A bucket is k = 256 weights (or any other number) that follow each other in the flattened tensor, or the whole tensor.
For the weights w of a bucket and n = 2^bits - 1 steps:

    β = min w,  α = max w - min w,  ŵ = α/n · round(n·(w - β)/α) + β

The level is the rounded number, the scale α/n, the offset β. Rounding is `nearest` (half to even), or `stochastic`: up
with the probability of the fraction, else down; each use draws anew, from torch's generator.

A last bucket that is not full is filled up with the last weight. A tensor smaller than a bucket is one shorter bucket.
A bucket with α < 1e-10 is constant: its levels are 0, its weights become β.

Guarantees
- |ŵ - w| ≤ α/2n with nearest rounding, ≤ α/n with stochastic.
- Minimum and maximum of a bucket are levels. So `nearest` is idempotent: ŵ is quantised to the levels that it has, and
  to itself within the rounding of its type.
- With stochastic rounding, E[ŵ] = w and Var[ŵ] = p(1 - p)·(α/n)², p being the fraction (appendix B).
- A NaN or infinite weight makes its bucket NaN, so that a training notices it.

`range_gradient` is the derivative of ŵ in w where only the rounding is taken as straight-through, and α and β follow
the bucket's extremes (`complicated` in the public code). With g = ∂L/∂ŵ and δ = (ŵ - w)/α:

    ∂L/∂w = g,  plus Σ g·δ at the bucket's maximum,  minus Σ g·δ at its minimum      (sums over the bucket)

Left out: the public code's other scalings (by max|w| or by the 2-norm), its symmetric clip before the scaling, and its
subtraction of the mean; none of its published runs has them.
"""

import torch
from torch import Tensor

from kdqat_cli.config import RoundingName
from kdqat_cli.native import fused
from kdqat_cli.quantizers.codes import MATRIX, Codes, Grouping

CONSTANT = 1e-10
"""Range of a bucket below which it counts as constant."""
_LARGEST_FUSED = 2**16  # values of a bucket: threads share buckets, not their values


class Uniform:
    """The quantiser `uniform`; for its attributes see `weights.WeightQuantizer`."""

    name = "uniform"

    def __init__(self, bits: int, bucket: int | None = 256, rounding: RoundingName = "nearest") -> None:
        """A quantiser of 1 to 8 bits.

        Args:
            bits: of a level; there are 2^bits levels.
            bucket: weights of a bucket; None: the whole tensor is one.
            rounding: to the nearest level, or stochastic.
        """
        self.levels = range(2**bits)
        self.grouping = MATRIX if bucket is None else Grouping("bucket", bucket)
        self.rounding = rounding

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels (uint8), scales and offsets of a latent weight of any shape and floating type."""
        size = grouping.size_in(latent.shape)
        if self.rounding == "nearest" and 0 < size <= _LARGEST_FUSED and fused.fuses(latent):
            levels, scales, offsets = fused.levels(latent, size, self.levels[-1], CONSTANT)
            return Codes(levels, scales, grouping, offsets)
        groups = grouping.split(latent)
        low, high = groups.aminmax(dim=1)
        width = high - low
        scales = width / self.levels[-1]
        # Infinity instead of the scale: every level of a constant bucket is then 0.
        steps = groups.sub(low[:, None]).div_(scales.where(width >= CONSTANT, torch.inf)[:, None])
        levels = self._rounded(steps).to(torch.uint8)
        return Codes(grouping.join(levels, latent.shape), scales, grouping, low)

    def _rounded(self, steps: Tensor) -> Tensor:
        """Steps from the minimum to whole ones, in place."""
        if self.rounding == "nearest":
            return steps.round_()
        # The clamp: (w - β)/(α/n) of the maximum may be a little more than n.
        return steps.add_(torch.rand_like(steps)).floor_().clamp_(max=self.levels[-1])


def range_gradient(grad: Tensor, latent: Tensor, value: Tensor, grouping: Grouping) -> Tensor:
    """∂L/∂w where the range of a bucket follows its extremes; of several equal ones the first.

    Args:
        grad: ∂L/∂ŵ, of the weight's shape.
        latent: w.
        value: ŵ.
        grouping: the one that w was quantised with.

    Returns:
        Of the weight's shape. A constant bucket has g alone.
    """
    groups = grouping.split(latent)
    high, low = groups.max(1), groups.min(1)
    width = high.values - low.values
    moved = grouping.split((value - latent) * grad)
    moved.view(-1)[latent.numel() :] = 0  # what fills up the last bucket has no gradient
    share = (moved.sum(1) / width).where(width >= CONSTANT, 0)
    first = torch.arange(len(groups), device=groups.device) * groups.shape[1]
    out = grad.flatten().clone()
    out.index_add_(0, first + high.indices, share).index_add_(0, first + low.indices, -share)
    return out.view(grad.shape)
