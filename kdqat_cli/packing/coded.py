"""Quantised weights in a packed file of version 2: any levels, and a codec for each weight. Does not import torch.

    <name>     U8           the levels of the weight, encoded by its codec (codecs/catalogue.py)
    scales     F32 or F16   the scales of all quantised weights, in the order of `codes` in the metadata
    offsets    F32 or F16   the offsets of the weights that have offsets, in the same order
    points     F32 or F16   the points of the weights that have points, in the same order

`codes` in the metadata maps names to `Entry`. A reader does not trust it: it compares sizes before it decodes anything.
A file has at most eight levels per byte, plus `MOST_ALIKE` levels of weights with a single level.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from kdqat_cli.codecs.catalogue import CODECS, decode, smallest
from kdqat_cli.codecs.huffman import MOST_ALIKE
from kdqat_cli.codecs.trits import decode as decode_trits
from kdqat_cli.codecs.trits import encode as encode_trits
from kdqat_cli.config import Section

Levels = NDArray[np.int8] | NDArray[np.uint8]
Floats = NDArray[np.floating]
Arrays = dict[str, NDArray[Any]]
"""Arrays of a file by name; the file says their types."""
Shapes = dict[str, tuple[int, int, int]]
"""Name of a ternary weight → (rows, columns, number of scales)."""
Unit = Literal["matrix", "row", "bucket"]

SCALES, OFFSETS, POINTS = "scales", "offsets", "points"


class Entry(Section):
    """The metadata of one quantised weight; a field with its default value is not written."""

    codec: str
    """Codec of the levels."""
    shape: list[int] = Field(min_length=1, max_length=8)
    """Shape of the weight."""
    unit: Unit
    """What shares a scale."""
    size: int | None = Field(default=None, ge=1)
    """Number of weights of a bucket."""
    lowest: int = Field(default=0, ge=-128, le=0)
    """The level that is stored as 0."""
    offsets: bool = False
    """Whether each group has an offset."""
    points: int = Field(default=0, ge=0, le=256)
    """Number of points; 0: the value of a level is the level."""

    @property
    def count(self) -> int:
        """The number of levels."""
        return math.prod(self.shape)

    @property
    def groups(self) -> int:
        """The number of scales."""
        if self.unit == "row":
            return self.shape[0]
        return 1 if self.size is None else max(1, -(-self.count // self.size))


@dataclass(frozen=True)
class Coded:
    """A quantised weight in numpy; see `Codes` (quantizers/codes.py).

    Attributes:
        levels: int8 or uint8, in the shape of the weight.
        scales: (groups,), FP32 or FP16.
        unit: what shares a scale.
        size: number of weights of a bucket, or None.
        offsets: (groups,) or None.
        points: (points,) or None.
    """

    levels: Levels
    scales: Floats
    unit: Unit
    size: int | None = None
    offsets: Floats | None = None
    points: Floats | None = None

    @property
    def largest(self) -> float:
        """An upper bound of |weight|."""
        with np.errstate(all="ignore"):
            of_level = np.abs(self.levels.astype(np.int16) if self.points is None else self.points).max(initial=0)
            scale = np.abs(self.scales).max(initial=0.0)
            offset = 0.0 if self.offsets is None else np.abs(self.offsets).max(initial=0.0)
            return float(of_level) * float(scale) + float(offset)

    def floats(self) -> dict[str, Floats]:
        """The scales, offsets and points, as far as there are any."""
        named = {SCALES: self.scales, OFFSETS: self.offsets, POINTS: self.points}
        return {name: values for name, values in named.items() if values is not None}


def ternary(trits: NDArray[np.uint8], shape: tuple[int, int, int], scales: Floats) -> Coded:
    """A ternary weight from its trits in version 1."""
    rows, columns, count = shape
    levels = decode_trits(trits, rows * columns).astype(np.int8) - np.int8(1)
    return Coded(levels.reshape(rows, columns), scales, "matrix" if count == 1 else "row")


def encoded(weights: dict[str, Coded], codec: str) -> tuple[Arrays, dict[str, dict[str, object]]]:
    """The arrays of a file and its `codes`.

    Args:
        weights: name → quantised weight.
        codec: the codec of all weights; `auto`: for each weight the codec with the fewest bytes.

    Raises:
        ValueError: the codec cannot hold the levels of a weight; the message names the weight.
    """
    arrays: Arrays = {}
    entries: dict[str, dict[str, object]] = {}
    floats: dict[str, list[Floats]] = {SCALES: [], OFFSETS: [], POINTS: []}
    for name, weight in weights.items():
        lowest = min(0, int(weight.levels.min()))
        levels = (weight.levels.astype(np.int16) - lowest).astype(np.uint8)
        try:
            used, arrays[name] = smallest(levels) if codec == "auto" else (codec, CODECS[codec].encode(levels))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        for kind, values in weight.floats().items():
            floats[kind].append(values)
        entry = Entry(
            codec=used,
            shape=list(weight.levels.shape),
            unit=weight.unit,
            size=weight.size,
            lowest=lowest,
            offsets=weight.offsets is not None,
            points=0 if weight.points is None else len(weight.points),
        )
        entries[name] = entry.model_dump(exclude_defaults=True)
    return arrays | {kind: np.concatenate(parts) for kind, parts in floats.items() if parts}, entries


def decoded(arrays: Arrays, codes: Mapping[str, object]) -> dict[str, Coded]:
    """The quantised weights of a file, in their order.

    Args:
        arrays: the arrays of the file; those of quantised weights are removed.
        codes: `codes` of the metadata.

    Raises:
        ValueError: the arrays and `codes` do not fit, or a stream is damaged; the message names the weight.
    """
    entries = {name: _entry(name, value) for name, value in codes.items()}
    for name, entry in entries.items():
        if name not in arrays or arrays[name].dtype != np.uint8 or arrays[name].ndim != 1:
            raise ValueError(f"{name} has no levels")
        if (entry.unit == "bucket") != (entry.size is not None) or min(entry.shape) < 1:
            raise ValueError(f"{name} has the shape {entry.shape} with a scale per {entry.unit} of {entry.size}")
    levels, stored = (sum(e.count for e in entries.values()), sum(arrays[name].size for name in entries))
    if levels > 8 * stored + MOST_ALIKE:
        raise ValueError(f"{stored} bytes cannot hold {levels} levels")
    wanted = {name: _floats_of(entry) for name, entry in entries.items()}
    for kind in (SCALES, OFFSETS, POINTS):
        total = sum(counts[kind] for counts in wanted.values())
        given = arrays.get(kind, np.empty(0, np.float32))
        if given.shape != (total,) or (kind in arrays and not total):
            raise ValueError(f"{kind} has the shape {given.shape}, not ({total},)")
    taken = dict.fromkeys((SCALES, OFFSETS, POINTS), 0)
    weights = {}
    for name, entry in entries.items():
        parts: dict[str, Floats] = {}
        for kind, count in wanted[name].items():
            if count:
                parts[kind] = arrays[kind][taken[kind] : taken[kind] + count]
            taken[kind] += count
        weights[name] = _weight(name, entry, arrays.pop(name), parts)
    for kind in taken:
        arrays.pop(kind, None)
    return weights


def _entry(name: str, value: object) -> Entry:
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise ValueError(f"{name}.{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}") from error


def _floats_of(entry: Entry) -> dict[str, int]:
    return {SCALES: entry.groups, OFFSETS: entry.groups if entry.offsets else 0, POINTS: entry.points}


def _weight(name: str, entry: Entry, stream: NDArray[np.uint8], parts: dict[str, Floats]) -> Coded:
    try:
        levels = decode(entry.codec, stream, entry.count)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    largest = int(levels.max())
    if (entry.lowest and largest + entry.lowest > 127) or (entry.points and (entry.lowest or largest >= entry.points)):
        raise ValueError(f"{name} has levels from {entry.lowest} to {largest + entry.lowest}")
    whole: Levels = (levels.astype(np.int16) + entry.lowest).astype(np.int8) if entry.lowest else levels
    offsets, points = parts.get(OFFSETS), parts.get(POINTS)
    return Coded(whole.reshape(entry.shape), parts[SCALES], entry.unit, entry.size, offsets, points)


def split(weights: dict[str, Coded], trits: bool) -> tuple[Arrays, Shapes, dict[str, Coded]]:
    """Separates the ternary weights, which the engine supports, from all others.

    Args:
        weights: name → quantised weight.
        trits: whether the levels of the model's quantiser are -1, 0 and 1.

    Returns:
        The arrays of the ternary weights as in version 1, their shapes, and the other weights.
    """
    arrays: Arrays = {}
    shapes: Shapes = {}
    others, scales = {}, []
    for name, weight in weights.items():
        two, plain = weight.levels.ndim == 2, weight.offsets is None and weight.points is None
        if trits and two and plain and weight.unit != "bucket" and np.abs(weight.levels.astype(np.int16)).max() <= 1:
            arrays[name] = encode_trits((weight.levels.astype(np.int16) + 1).astype(np.uint8))
            rows, columns = weight.levels.shape
            shapes[name] = (rows, columns, len(weight.scales))
            scales.append(weight.scales)
        else:
            others[name] = weight
    if scales:
        arrays[SCALES] = np.concatenate(scales)
    return arrays, shapes, others
