"""A quantised weight as a value: integer levels, scales, and what shares a scale.

    ŵ = scale of its group · level                              multiples of a scale (ternary, int4, int8)
    ŵ = scale of its group · level + offset of its group        a grid that starts anywhere (uniform)
    ŵ = scale of its group · points[level] + offset of its group    points of the whole weight (learned points)

Guarantees
- The same codes give the same ŵ, bit for bit: training, evaluation and every file format compute it here.
- Product and sum are each rounded to the type of the scales.
- Without offsets and points a level of 0 gives +0, never -0.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from kdqat_cli.native import fused


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

    def size_in(self, shape: torch.Size) -> int:
        """Values of a group in a weight of this shape; the last bucket may have fewer."""
        if self.unit == "row":
            return math.prod(shape[1:])
        return shape.numel() if self.size is None else min(self.size, shape.numel())

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
        grouping: what shares a scale, and an offset.
        offsets: (groups,), of the weight's type; None: all 0.
        points: (points,), of the weight's type, the value of each level before scale and offset, within [0, 1] where
            training has not moved them out of it; None: a level is its own value.

    Raises:
        ValueError: another number of scales or offsets than of groups, or points that are not a list of numbers.
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
        """Whether ŵ is a multiple of its group's scale."""
        return self.offsets is None and self.points is None

    def value(self) -> Tensor:
        """The weight ŵ, of the shape of the levels and the type of the scales."""
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
        follows = torch.is_grad_enabled() and any(values.requires_grad for values in parts)  # autograd, to learn them
        bytes_ = self.levels.dtype in (torch.int8, torch.uint8) and self.levels.is_cpu and self.levels.numel() > 0
        return bytes_ and self.points is None and not follows and fused.fuses(*parts)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by name."""
        named = {name: getattr(self, name) for name in ("levels", "scales", "offsets", "points")}
        return {name: values for name, values in named.items() if values is not None}

    def cpu(self) -> "Codes":
        """The same in the memory of the processor."""
        here: dict[str, Any] = {name: values.cpu() for name, values in self.tensors().items()}
        return replace(self, **here)


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
