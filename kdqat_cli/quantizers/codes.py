"""A quantised weight as a value: integer levels, scales, and what shares a scale.

    ŵ = scale of its group · level

Guarantees
- The same levels and scales give the same ŵ, bit for bit: training, evaluation and every file format multiply here.
- A level of 0 gives +0, never -0.

Left out: offsets (the β of Polino et al.'s buckets) and levels that are numbers of learned points.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grouping:
    """What shares a scale.

    Attributes:
        unit: the whole weight, each row of it (all values of one index of the first axis), or each bucket.
        size: values of a bucket, which are consecutive in the flattened weight; None for the other units.

    Raises:
        ValueError: a bucket without a positive size, or a size of something else.
    """

    unit: Literal["matrix", "row", "bucket"]
    size: int | None = None

    def __post_init__(self) -> None:
        if (self.unit == "bucket") != (self.size is not None and self.size > 0):
            raise ValueError(f"a {self.unit} of {self.size} values")

    def __str__(self) -> str:
        return self.unit if self.size is None else f"{self.unit} of {self.size}"

    def count(self, shape: torch.Size) -> int:
        """The number of groups in a weight of this shape."""
        if self.unit == "row":
            return shape[0]
        return 1 if self.size is None else max(1, -(-shape.numel() // self.size))

    def split(self, values: Tensor) -> Tensor:
        """Values of any shape → (groups, values per group).

        A last bucket that is not full is filled up with the last value. A weight smaller than a bucket is one bucket of
        its own size.
        """
        if self.unit == "row":  # of which there may be none: an embedding's, of an empty batch
            return values.reshape(len(values), math.prod(values.shape[1:]))
        groups = self.count(values.shape)
        if self.size is not None and groups > 1 and values.numel() % self.size:
            flat = values.reshape(-1)
            values = torch.cat([flat, flat[-1:].expand(groups * self.size - flat.numel())])
        return values.reshape(groups, -1)

    def join(self, groups: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `split`, for a weight of this shape."""
        return groups.reshape(-1)[: shape.numel()].view(shape)


MATRIX, ROW = Grouping("matrix"), Grouping("row")


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantised weight.

    Attributes:
        levels: of the weight's shape, integers.
        scales: (groups,), of the weight's type.
        grouping: what shares a scale.

    Raises:
        ValueError: another number of scales than of groups.
    """

    levels: Tensor
    scales: Tensor
    grouping: Grouping

    def __post_init__(self) -> None:
        if self.scales.shape != (self.grouping.count(self.levels.shape),):
            raise ValueError(
                f"{tuple(self.scales.shape)} scales do not fit {tuple(self.levels.shape)} levels with one scale per "
                f"{self.grouping}"
            )

    def value(self) -> Tensor:
        """The weight ŵ, of the shape of the levels and the type of the scales."""
        groups = self.grouping.split(self.levels).to(self.scales.dtype) * self.scales[:, None]
        return self.grouping.join(groups, self.levels.shape)

    def cpu(self) -> "Codes":
        """The same in the memory of the processor."""
        return replace(self, levels=self.levels.cpu(), scales=self.scales.cpu())


def recovered(weight: Tensor, grouping: Grouping, most: int) -> Codes:
    """The codes of a quantised weight of which only the floats are left.

    For quantisers that give the largest |w| of a group the largest level, which ternary, int4 and int8 do. That |w| is
    the rounded product most·scale, so the scale is |w| / most or a float beside it: the one that gives every weight of
    the group is taken.

    Args:
        weight: ŵ, of any shape.
        grouping: the one that it was quantised with.
        most: the largest level.

    Raises:
        ValueError: no such codes give the weight exactly.
    """
    groups = grouping.split(weight)
    near = groups.abs().amax(1) / most
    levels = (groups / near.where(near > 0, 1)[:, None]).round().to(torch.int8)
    scales, found = near, torch.zeros_like(near, dtype=torch.bool)
    for towards, steps in ((0.0, 0), (torch.inf, 1), (0.0, 1), (torch.inf, 2), (0.0, 2)):
        candidate = near
        for _ in range(steps):
            candidate = torch.nextafter(candidate, torch.full_like(near, towards))
        fits = (levels.to(weight.dtype) * candidate[:, None] == groups).all(1) & ~found
        scales, found = torch.where(fits, candidate, scales), found | fits
    if not found.all():
        raise ValueError(f"no multiples of one scale per {grouping}")
    return Codes(grouping.join(levels, weight.shape), scales, grouping)
