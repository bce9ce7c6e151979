"""Quantises weights to points, which need not be equally spaced (Polino et al., ICLR 2018, section 4).

The weights of a bucket are scaled to v = (w - β)/α, with β the minimum and α the range of the bucket, as in uniform.py.
All buckets of a tensor share one list of points p. Each weight takes its nearest point; of two equally near points,
the upper one:

    ŵ = α · p[level] + β

The first points are quantiles of v (`quantiles`), or equally spaced from 0 to 1 (`uniform`). learned.py trains them.

Rules for tensors with different numbers of points:

    gradient   Each tensor keeps half of its points. The other halves of all tensors are shared in proportion to the
               norm of the mean gradient g of each tensor, as in the public code. The rule ignores the sizes of the
               tensors, so the mean number of bits per weight grows.
    budget     Each tensor starts with two points. Each further point goes to the tensor where it lowers
               Σ (∂L/∂v · error)² the most per bit that it costs, as long as the mean over all weights stays within the
               bits asked for. Two assumptions: each bit halves the error in v, and ∂L/∂v = g · α is the same for all
               weights of a tensor (its root mean square).
"""

import math

import torch
from torch import Tensor

from kdqat_cli.config import StartName
from kdqat_cli.quantizers.codes import MATRIX, Codes, Grouping
from kdqat_cli.quantizers.uniform import CONSTANT

MOST_POINTS = 256
"""The largest number of points of one tensor, because a level is one byte."""
_LEAST_POINTS = 2


class Points:
    """The quantiser `points`, with the points that training begins with; weights.py explains its attributes."""

    name = "points"

    def __init__(self, count: int, bucket: int | None = 256, start: StartName = "quantiles") -> None:
        """A quantiser with 2 to 256 points per tensor.

        Args:
            count: number of points.
            bucket: number of weights that share α and β; None: the whole tensor.
            start: how the first points are chosen.
        """
        self.levels = range(MOST_POINTS)
        self.count = count
        self.grouping = MATRIX if bucket is None else Grouping("bucket", bucket)
        self.start = start

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels (uint8), scales, offsets and points of a latent weight of any shape and floating type."""
        values, scales, offsets = scaled(latent, grouping)
        points = self.first(values)
        return Codes(grouping.join(nearest(values, points), latent.shape), scales, grouping, offsets, points)

    def first(self, values: Tensor) -> Tensor:
        """The points (count,) that training begins with, for scaled values of any shape."""
        shares = torch.linspace(0, 1, self.count, dtype=values.dtype, device=values.device)
        if self.start == "uniform":
            return shares
        # Not torch.quantile, which refuses more than 2^24 values.
        ordered = values.flatten().sort().values
        places = shares * (len(ordered) - 1)
        low = places.floor().long()
        high = (low + 1).clamp(max=len(ordered) - 1)
        return torch.lerp(ordered[low], ordered[high], places - low)


def scaled(latent: Tensor, grouping: Grouping) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled weights v (groups, values per group) within [0, 1], α and β (groups,). In a constant bucket v is 0."""
    groups = grouping.split(latent)
    low, high = groups.aminmax(dim=1)
    width = high - low
    values = (groups - low[:, None]) / width.where(width >= CONSTANT, torch.inf)[:, None]
    return values, width, low


def nearest(values: Tensor, points: Tensor) -> Tensor:
    """The level (uint8) of each value: the index of its nearest point; of two equally near points, the upper one.

    Args:
        values: of any shape.
        points: (points,), sorted.
    """
    middles = (points[1:] + points[:-1]) / 2
    return torch.bucketize(values, middles, right=True).to(torch.uint8)


def by_gradient(asked: int, norms: dict[str, float]) -> dict[str, int]:
    """The number of points of each tensor by the rule `gradient`.

    Args:
        asked: average number of points per tensor.
        norms: name of a tensor → ‖g‖.
    """
    base = asked // 2
    rest, whole = len(norms) * (asked - base), math.fsum(norms.values())
    shares = {name: round(norm / whole * rest) if whole else asked - base for name, norm in norms.items()}
    surplus = sum(shares.values()) - rest
    if surplus:  # after rounding: the largest share gives up surplus points, the smallest gets missing ones
        chosen = (max if surplus > 0 else min)(shares, key=shares.__getitem__)
        shares[chosen] -= surplus
    return {name: min(max(base + share, _LEAST_POINTS), MOST_POINTS) for name, share in shares.items()}


def by_budget(bits: float, norms: dict[str, float], sizes: dict[str, int]) -> dict[str, int]:
    """The number of points of each tensor by the rule `budget`.

    Args:
        bits: largest average number of bits per weight.
        norms: name of a tensor → the norm of ∂L/∂v.
        sizes: name of a tensor → its number of weights.
    """
    counts, whole = dict.fromkeys(norms, _LEAST_POINTS), sum(sizes[name] for name in norms)
    left = bits * whole - whole * math.log2(_LEAST_POINTS)
    while True:
        cost = {name: sizes[name] * math.log2(1 + 1 / count) for name, count in counts.items() if count < MOST_POINTS}
        gain = {n: (1 / counts[n] ** 2 - 1 / (counts[n] + 1) ** 2) * norms[n] ** 2 / cost[n] for n in cost}
        chosen = max((name for name in cost if cost[name] <= left), key=gain.__getitem__, default=None)
        if chosen is None:
            return counts
        counts[chosen] += 1
        left -= cost[chosen]


def mean_bits(counts: dict[str, int], sizes: dict[str, int]) -> float:
    """The mean of log2(number of points) over all weights.

    Args:
        counts: name of a tensor → its number of points.
        sizes: name of a tensor → its number of weights.
    """
    return sum(math.log2(counts[name]) * sizes[name] for name in counts) / sum(sizes[name] for name in counts)
