"""Reading the packed checkpoint into numpy arrays, without torch: the engine serves without it.

The layout stands in checkpoint.py. The digest is checked first: a truncated, altered or foreign file is refused, and
nothing is unpickled. Ternary weights are trits afterwards, whatever codec the file has them in.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kdqat_cli.codecs.trits import LARGEST_BYTE, packed_size
from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import is_there, open_file
from kdqat_cli.levels import are_trits
from kdqat_cli.packing.coded import SCALES, Arrays, Coded, Shapes, decoded, split
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.record import Record, read_record

FILE_NAME = "kdqat.safetensors"  # not model.safetensors: stock loaders must fail, not start from random weights
VERSIONS = (1, 2)
METADATA_KEY = "kdqat"


@dataclass
class PackedParts:
    """What a packed checkpoint holds.

    Attributes:
        arrays: every tensor that is not quantised, ternary weights as trits, and under `scales` their scales.
        config: the model's configuration, as in config.json.
        record: what is recorded of the model, under `about` in the file.
        shapes: ternary weight → (rows, columns, number of scales).
        coded: quantised weights that are not ternary.
    """

    arrays: Arrays
    config: dict[str, Any]
    record: Record
    shapes: Shapes
    coded: dict[str, Coded] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor of the model; None: there is none of this name."""
        if name in self.shapes:
            return self.shapes[name][:2]
        if name in self.coded:
            return self.coded[name].levels.shape
        return self.arrays[name].shape if name in self.arrays else None

    def scales(self, single: bool = True) -> dict[str, NDArray[Any]]:
        """Name → scales (1,) or (O,) of every ternary weight, in FP32 or, where `single` is false, as stored."""
        scales, start = {}, 0
        for name, (_, _, count) in self.shapes.items():
            values = self.arrays[SCALES][start : start + count]
            scales[name] = values.astype(np.float32) if single else values
            start += count
        return scales


class PackedFile(PackedParts):
    """A packed checkpoint that was read and found whole."""

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            MissingInputError: no such file, or truncated, altered, not kdqat's, or its parts do not fit each other
                (soundness.py says what of a file is checked).
        """
        arrays, header = _read(path)
        if header.get("version") not in VERSIONS:
            raise MissingInputError(
                f"{path} has format version {header.get('version')}; this kdqat reads versions 1 and 2.",
                "kdqat export",
            )
        claimed = header.pop("sha256", None)
        if digest(arrays, header) != claimed:
            raise MissingInputError(
                f"{path} was altered after it was written: its sha256 does not match.", "kdqat export"
            )
        quantized = "ternary" if header["version"] == 1 else "codes"
        if not all(isinstance(header.get(key), dict) for key in ("config", "about", quantized)):
            raise MissingInputError(f"{path} does not hold what its own header says.", "kdqat export")
        if name := not_finite(arrays):
            raise MissingInputError(f"{path}: {name} is not finite.", "kdqat distill")
        record = read_record(header["about"], f"{path}: about")
        try:
            shapes, coded = _quantized(arrays, header, record)
        except ValueError as error:
            sentence = f"{path} does not hold what its own header says: {error}."
            raise MissingInputError(sentence, "kdqat export") from error
        super().__init__(arrays, header["config"], record, shapes, coded)
        if fault := fault_of(self):
            raise MissingInputError(f"{path} does not fit its own configuration: {fault}", "kdqat export")


def packed_record(path: Path) -> Record:
    """The record of a packed checkpoint, without its weights, which are neither read nor checked here.

    Raises:
        MissingInputError: as of `PackedFile`, where the file's header alone tells.
    """
    try:
        return read_record(_read(path, weights=False)[1].get("about"), f"{path}: about")
    except MissingInputError:
        return PackedFile(path).record  # says first whether the file was altered


def _read(path: Path, weights: bool = True) -> tuple[Arrays, dict[str, Any]]:
    """The arrays, unless they are not asked for, and the header."""
    if not is_there(path) or path.is_dir():
        raise MissingInputError(f"There is no packed checkpoint {path}.", "kdqat export")
    fix = (
        "kdqat export"
        if path.name == FILE_NAME
        else f"the folder of a model, or {FILE_NAME}, which kdqat export writes"
    )
    open_file(path).close()  # refuses what is no regular file: a named pipe would block
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys() if weights else []
            arrays, metadata = {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        header = json.loads(metadata.get(METADATA_KEY, "null"))
    # AttributeError and KeyError: numpy has not all of safetensors' types; OSError: it cannot be read.
    except (
        *(SafetensorError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, OSError, MemoryError),
    ) as error:
        raise MissingInputError(f"{path} is truncated, altered or not a safetensors file ({error}).", fix) from error
    if not isinstance(header, dict):
        raise MissingInputError(f"{path} is not a packed checkpoint of kdqat.", fix)
    return arrays, header


def _quantized(arrays: Arrays, header: dict[str, Any], record: Record) -> tuple[Shapes, dict[str, Coded]]:
    """The quantised weights of a file, taken out of `arrays`; the ternary ones are put back as trits.

    Raises:
        ValueError: they are not there as the header says: a digest only tells that a file is as it was written.
    """
    coded: dict[str, Coded] = {}
    if header["version"] == 1:
        shapes = _trits(arrays, header["ternary"])
    else:
        weights = decoded(arrays, header["codes"])
        trits, shapes, coded = split(weights, record.quantization is not None and are_trits(record.quantization.levels))
        arrays |= trits
    for name, array in arrays.items():
        if name not in shapes and array.dtype not in (np.float16, np.float32):
            raise ValueError(f"{name} holds {array.dtype}")
    return shapes, coded


def _trits(arrays: Arrays, ternary: dict[str, Any]) -> Shapes:
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
        raise ValueError(f"there are not {scales} scales")
    return shapes


def not_finite(arrays: Arrays) -> str | None:
    """The first array that holds an infinite or undefined value: rounding to 8 bits makes a sound number of it."""
    floats = (name for name, array in arrays.items() if array.dtype.kind == "f")
    return next((name for name in floats if not np.isfinite(arrays[name]).all()), None)


def digest(arrays: Arrays, header: dict[str, Any]) -> str:
    """The sha256 over a header (without its own) and all arrays."""
    state = hashlib.sha256(to_json(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        # The types under torch's names, with which the first files were written.
        state.update(to_json([name, f"torch.{array.dtype}", list(array.shape)]).encode())
        state.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return state.hexdigest()


def to_json(value: Any) -> str:
    """The one spelling of a header that digests are made of."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
