"""The type of a quantised weight: integer levels, scales, and the grouping, which says what shares a scale.

    ŵ = scale of its group · level                              multiples of a scale (ternary, int4, int8)
    ŵ = scale of its group · level + offset of its group        a grid with an offset (uniform)
    ŵ = scale of its group · points[level] + offset of its group    one list of points per weight (learned points)

Guarantees
- The same codes give the same ŵ, bit for bit, because training, evaluation and every file format compute it here.
- The product and the sum are each rounded to the type of the scales.
- Without offsets and points, level 0 gives +0, never -0.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdqat_cli.native import fused


@dataclass(frozen=True)
class Grouping:
    """What shares a scale.

    Attributes:
        unit: the whole weight, each row (all values of one index of the first axis), or each bucket (consecutive values
            of the flattened weight).
        size: number of values of a bucket; None for the other units.

    Raises:
        ValueError: a bucket without a positive size, or another unit with a size.
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

    def size_in(self, shape: torch.Size) -> int:
        """The number of values of a group in a weight of this shape; the last bucket may have fewer."""
        if self.unit == "row":
            return math.prod(shape[1:])
        return shape.numel() if self.size is None else min(self.size, shape.numel())

    def split(self, values: Tensor) -> Tensor:
        """Values of any shape → (groups, values per group).

        A last bucket that is not full is padded with the last value. A weight smaller than a bucket is one bucket of
        its own size.
        """
        if self.unit == "row":  # there may be no rows: those of an embedding for an empty batch
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
        levels: integers, in the shape of the weight.
        scales: (groups,), in the type of the weight.
        grouping: what shares a scale and an offset.
        offsets: (groups,), in the type of the weight; None: all 0.
        points: (points,), in the type of the weight: the value of each level before scale and offset. They start within
            [0, 1]; training may move them out of it. None: the value of a level is the level.

    Raises:
        ValueError: the number of scales or offsets is not the number of groups, or the points are not one list.
    """

    levels: Tensor
    scales: Tensor
    grouping: Grouping
    offsets: Tensor | None = None
    points: Tensor | None = None

    def __post_init__(self) -> None:
        groups = self.grouping.count(self.levels.shape)
        for values, name in ((self.scales, "scale"), (self.offsets, "offset")):
            if values is not None and values.shape != (groups,):
                raise ValueError(
                    f"{tuple(values.shape)} {name}s do not fit {tuple(self.levels.shape)} levels with one {name} per "
                    f"{self.grouping}"
                )
        if self.points is not None and (self.points.dim() != 1 or not len(self.points)):
            raise ValueError(f"the points are {tuple(self.points.shape)}, not a list of numbers")

    @property
    def multiplies(self) -> bool:
        """Whether ŵ is a multiple of the scale of its group."""
        return self.offsets is None and self.points is None

    def value(self) -> Tensor:
        """The weight ŵ, in the shape of the levels and the type of the scales."""
        if self._fuses():
            return fused.values(self.levels, self.grouping.size_in(self.levels.shape), self.scales, self.offsets)
        levels = self.grouping.split(self.levels)
        if self.points is None:
            groups = levels.to(self.scales.dtype) * self.scales[:, None]
        else:
            groups = self.points.index_select(0, levels.flatten().int()).view(levels.shape) * self.scales[:, None]
        if self.offsets is not None:
            groups += self.offsets[:, None]
        return self.grouping.join(groups, self.levels.shape)

    def _fuses(self) -> bool:
        parts = [values for name, values in self.tensors().items() if name != "levels"]
        follows = torch.is_grad_enabled() and any(values.requires_grad for values in parts)  # they are trained
        bytes_ = self.levels.dtype in (torch.int8, torch.uint8) and self.levels.is_cpu and self.levels.numel() > 0
        return bytes_ and self.points is None and not follows and fused.fuses(*parts)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        named = {name: getattr(self, name) for name in ("levels", "scales", "offsets", "points")}
        return {name: values for name, values in named.items() if values is not None}

    def cpu(self) -> "Codes":
        """The same codes in the memory of the CPU."""
        offsets, points = (None if values is None else values.cpu() for values in (self.offsets, self.points))
        return Codes(self.levels.cpu(), self.scales.cpu(), self.grouping, offsets, points)


def recovered(weight: Tensor, grouping: Grouping, most: int) -> Codes:
    """The codes of a quantised weight, computed from its floats.

    This works for quantisers that give the largest |w| of a group the largest level (ternary, int4, int8). That |w| is
    the rounded product most·scale, so the scale is |w| / most or a neighbouring float. The function takes the one that
    gives every weight of the group.

    Args:
        weight: ŵ, of any shape.
        grouping: the grouping that it was quantised with.
        most: the largest level.

    Raises:
        ValueError: no codes give exactly this weight.
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
