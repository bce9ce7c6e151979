"""Reads a packed checkpoint into numpy arrays, without torch, so that the engine does not need torch.

checkpoint.py explains the layout. The digest is checked first, so a truncated, altered or foreign file is refused.
Nothing is unpickled. After reading, ternary weights are trits, with any codec in the file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from kdqat_cli.codecs.trits import LARGEST_BYTE, packed_size
from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import is_there, open_file
from kdqat_cli.levels import are_trits
from kdqat_cli.networks.family import Config
from kdqat_cli.packing.coded import SCALES, Arrays, Coded, Floats, Shapes, decoded, split
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.record import Record, read_record

FILE_NAME = "kdqat.safetensors"  # not model.safetensors: stock loaders must fail and not use random weights
VERSIONS = (1, 2)
METADATA_KEY = "kdqat"


@dataclass
class PackedParts:
    """The parts of a packed checkpoint.

    Attributes:
        arrays: tensors that are not quantised, ternary weights as trits, and `scales`, the scales of ternary weights.
        config: the configuration of the model, as in config.json.
        record: the record of the model; `about` in the file.
        shapes: name of a ternary weight → (rows, columns, number of scales).
        coded: quantised weights that are not ternary.
    """

    arrays: Arrays
    config: Config
    record: Record
    shapes: Shapes
    coded: dict[str, Coded] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor of the model; None: there is no tensor of this name."""
        if name in self.shapes:
            return self.shapes[name][:2]
        if name in self.coded:
            return self.coded[name].levels.shape
        return self.arrays[name].shape if name in self.arrays else None

    def scales(self, single: bool = True) -> dict[str, Floats]:
        """Name of a ternary weight → its scales (1,) or (O,), in FP32, or as stored if `single` is false."""
        scales: dict[str, Floats] = {}
        start = 0
        for name, (_, _, count) in self.shapes.items():
            values: Floats = self.arrays[SCALES][start : start + count]
            scales[name] = values.astype(np.float32) if single else values
            start += count
        return scales


class PackedFile(PackedParts):
    """A packed checkpoint that was read and checked."""

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            MissingInputError: the file does not exist, is truncated or altered, is not a packed checkpoint, or its
                parts do not fit each other (soundness.py has the checks).
        """
        arrays, header = _read(path)
        if header.get("version") not in VERSIONS:
            raise MissingInputError(
                f"{path} has format version {header.get('version')}, but this kdqat reads versions 1 and 2.",
                "kdqat export",
            )
        claimed = header.pop("sha256", None)
        if digest(arrays, header) != claimed:
            raise MissingInputError(
                f"{path} was altered after it was written: its sha256 does not match.", "kdqat export"
            )
        quantized = header.get("ternary" if header["version"] == 1 else "codes")
        config, about = header.get("config"), header.get("about")
        if not (isinstance(config, dict) and isinstance(about, dict) and isinstance(quantized, dict)):
            raise MissingInputError(f"{path} does not match its own header.", "kdqat export")
        if name := not_finite(arrays):
            raise MissingInputError(f"{path}: {name} is NaN or infinite.", "kdqat distill")
        record = read_record(about, f"{path}: about")
        try:
            shapes, coded = _quantized(arrays, header["version"] == 1, quantized, record)
        except ValueError as error:
            raise MissingInputError(f"{path} does not match its own header: {error}.", "kdqat export") from error
        super().__init__(arrays, config, record, shapes, coded)
        if fault := fault_of(self):
            raise MissingInputError(f"{path} does not fit its own configuration: {fault}", "kdqat export")


def packed_record(path: Path) -> Record:
    """The record of a packed checkpoint, without its weights, which are neither read nor checked here.

    Raises:
        MissingInputError: see `PackedFile`; only faults of the header are found.
    """
    try:
        return read_record(_read(path, weights=False)[1].get("about"), f"{path}: about")
    except MissingInputError:
        return PackedFile(path).record  # says first whether the file was altered


def _read(path: Path, weights: bool = True) -> tuple[Arrays, dict[str, object]]:
    """The arrays, if they are wanted, and the header."""
    if not is_there(path) or path.is_dir():
        raise MissingInputError(f"There is no packed checkpoint {path}.", "kdqat export")
    fix = (
        "kdqat export"
        if path.name == FILE_NAME
        else f"the folder of a model, or {FILE_NAME}, which kdqat export writes"
    )
    open_file(path).close()  # refuses a file that is not regular: a named pipe would block
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys() if weights else []
            arrays, metadata = {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        header = json.loads(metadata.get(METADATA_KEY, "null"))
    # AttributeError and KeyError: numpy does not have all types of safetensors; OSError: the file cannot be read.
    except (
        *(SafetensorError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, OSError, MemoryError),
    ) as error:
        raise MissingInputError(f"{path} is truncated, altered or not a safetensors file ({error}).", fix) from error
    if not isinstance(header, dict):
        raise MissingInputError(f"{path} is not a packed checkpoint of kdqat.", fix)
    return arrays, header


def _quantized(
    arrays: Arrays, first: bool, entries: Mapping[str, object], record: Record
) -> tuple[Shapes, dict[str, Coded]]:
    """The quantised weights of a file. They are removed from `arrays`, except ternary ones, which are stored as trits.

    Args:
        arrays: the arrays of the file; changed in place.
        first: whether the file has version 1.
        entries: `ternary` or `codes` of the header.
        record: the record of the model.

    Raises:
        ValueError: the arrays do not match the header. The digest only shows that the file did not change.
    """
    coded: dict[str, Coded] = {}
    if first:
        shapes = _trits(arrays, entries)
    else:
        weights = decoded(arrays, entries)
        trits, shapes, coded = split(weights, record.quantization is not None and are_trits(record.quantization.levels))
        arrays |= trits
    for name, array in arrays.items():
        if name not in shapes and array.dtype not in (np.float16, np.float32):
            raise ValueError(f"{name} has the type {array.dtype}")
    return shapes, coded


def _trits(arrays: Arrays, ternary: Mapping[str, object]) -> Shapes:
    shapes: Shapes = {}
    for name, shape in ternary.items():
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
            raise ValueError(f"{name} has the sizes {shown(shape)}")
        rows, columns, count = shape
        array = arrays.get(name)
        if array is None or array.dtype != np.uint8 or array.shape != (packed_size(rows * columns),):
            raise ValueError(f"{name} has no {rows} times {columns} trits")
        if count not in (1, rows) or array.max() > LARGEST_BYTE:
            raise ValueError(f"{name} has {count} scales, or a byte above {LARGEST_BYTE}")
        shapes[name] = (rows, columns, count)
    scales = sum(count for _, _, count in shapes.values())
    if shapes and (SCALES not in arrays or arrays[SCALES].shape != (scales,)):
        raise ValueError(f"it does not have {scales} scales")
    return shapes


def not_finite(arrays: Arrays) -> str | None:
    """The first array with a NaN or infinite value, which rounding to 8 bits would hide."""
    floats = (name for name, array in arrays.items() if array.dtype.kind == "f")
    return next((name for name in floats if not np.isfinite(arrays[name]).all()), None)


def digest(arrays: Arrays, header: Mapping[str, object]) -> str:
    """The sha256 of a header (without its `sha256`) and all arrays."""
    state = hashlib.sha256(to_json(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        # The types have the names of torch, as in the first files.
        state.update(to_json([name, f"torch.{array.dtype}", list(array.shape)]).encode())
        state.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return state.hexdigest()


def to_json(value: object) -> str:
    """The JSON text of a header, always written in the same way, so that its digest is the same."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
