"""Uniform quantisation in buckets (Polino, Pascanu and Alistarh, ICLR 2018, section 3).

A bucket is k = 256 consecutive weights of the flattened tensor (k can be set), or the whole tensor. For the weights w
of a bucket and n = 2^bits - 1 steps:

    β = min w,  α = max w - min w,  ŵ = α/n · round(n·(w - β)/α) + β

The level is the rounded number, the scale is α/n, and the offset is β. Rounding is `nearest` (half to even) or
`stochastic`: up with a probability equal to the fraction, else down. Each use draws anew from torch's generator: on a
CPU in FP32 a seed, from which the native library makes the random numbers (native/src/buckets.h), so that they depend
neither on the kernel nor on the number of threads; elsewhere the numbers themselves.

A last bucket that is not full is padded with the last weight. A tensor smaller than a bucket is one shorter bucket.
A bucket with α < 1e-10 is constant: its levels are 0, and its weights become β.

Guarantees
- |ŵ - w| ≤ α/2n with nearest rounding, ≤ α/n with stochastic rounding.
- The minimum and the maximum of a bucket are levels. So `nearest` is idempotent: quantising ŵ again gives the same
  levels, and the same ŵ within the rounding of its type.
- With stochastic rounding, E[ŵ] = w and Var[ŵ] = p(1 - p)·(α/n)², where p is the fraction (appendix B).
- A NaN or infinite weight makes its whole bucket NaN, and a gradient of the bucket too, so that a training notices it.

`range_gradient` is the derivative of ŵ with respect to w if only the rounding is straight-through, and α and β depend
on the extremes of the bucket (`complicated` in the public code). With g = ∂L/∂ŵ and δ = (ŵ - w)/α:

    ∂L/∂w = g,  plus Σ g·δ at the bucket's maximum,  minus Σ g·δ at its minimum      (sums over the bucket)

Left out, because no published run uses them: the other scalings of the public code (by max|w| or by the 2-norm), its
symmetric clip before the scaling, and its subtraction of the mean.
"""

import torch
from torch import Tensor

from kdqat_cli.config import RoundingName
from kdqat_cli.native import fused
from kdqat_cli.quantizers.codes import MATRIX, Codes, Grouping

CONSTANT = 1e-10
"""A bucket with a smaller range is constant."""


class Uniform:
    """The quantiser `uniform`; `weights.WeightQuantizer` explains its attributes."""

    name = "uniform"

    def __init__(self, bits: int, bucket: int | None = 256, rounding: RoundingName = "nearest") -> None:
        """A quantiser of 1 to 8 bits.

        Args:
            bits: number of bits of a level; there are 2^bits levels.
            bucket: number of weights of a bucket; None: the whole tensor is one bucket.
            rounding: to the nearest level, or stochastic.
        """
        self.levels = range(2**bits)
        self.grouping = MATRIX if bucket is None else Grouping("bucket", bucket)
        self.rounding = rounding
        self.draws = rounding == "stochastic"

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels (uint8), scales and offsets of a latent weight of any shape and floating type."""
        size = grouping.size_in(latent.shape)
        if size > 0 and fused.fuses(latent):
            seed = int(torch.randint(2**63 - 1, (), device=latent.device)) if self.draws else None
            levels, scales, offsets = fused.levels(latent, size, self.levels[-1], CONSTANT, seed)
            return Codes(levels, scales, grouping, offsets)
        groups = grouping.split(latent)
        low, high = groups.aminmax(dim=1)
        width = high - low
        scales = width / self.levels[-1]
        # Dividing by infinity makes every level of a constant bucket 0.
        steps = groups.sub(low[:, None]).div_(scales.where(width >= CONSTANT, torch.inf)[:, None])
        levels = self._rounded(steps).to(torch.uint8)
        return Codes(grouping.join(levels, latent.shape), scales, grouping, low)

    def _rounded(self, steps: Tensor) -> Tensor:
        """Rounds numbers of steps above the minimum to integers, in place."""
        if self.rounding == "nearest":
            return steps.round_()
        # The clamp is needed because (w - β)/(α/n) of the maximum may be slightly larger than n.
        return steps.add_(torch.rand_like(steps)).floor_().clamp_(max=self.levels[-1])


def range_gradient(grad: Tensor, latent: Tensor, value: Tensor, grouping: Grouping) -> Tensor:
    """∂L/∂w if the range of a bucket depends on its extremes; of several equal extremes, the first.

    Args:
        grad: ∂L/∂ŵ, in the shape of the weight.
        latent: w.
        value: ŵ.
        grouping: the grouping that w was quantised with.

    Returns:
        ∂L/∂w, in the shape of the weight. In a constant bucket it is g.
    """
    size = grouping.size_in(latent.shape)
    if size > 0 and fused.fuses(grad, latent, value):
        return fused.range_gradient(grad, latent, value, size, CONSTANT)
    groups = grouping.split(latent)
    high, low = groups.max(1), groups.min(1)
    width = high.values - low.values
    moved = grouping.split((value - latent) * grad)
    moved.view(-1)[latent.numel() :] = 0  # the padding of the last bucket has no gradient
    share = (moved.sum(1) / width).masked_fill(width < CONSTANT, 0)
    first = torch.arange(len(groups), device=groups.device) * groups.shape[1]
    out = grad.flatten().clone()
    out.index_add_(0, first + high.indices, share).index_add_(0, first + low.indices, -share)
    return out.view(grad.shape)
