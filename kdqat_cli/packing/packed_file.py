"""Reading the packed checkpoint into numpy arrays, without torch: the engine serves without it.

The layout stands in checkpoint.py. The digest is checked first: a truncated, altered or foreign file is refused, and
nothing is unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kdqat_cli.codecs.trits import LARGEST_BYTE, packed_size
from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import is_there, open_file
from kdqat_cli.packing.soundness import SCALES, fault_of
from kdqat_cli.record import Record, read_record

FILE_NAME = "kdqat.safetensors"  # not model.safetensors: stock loaders must fail, not start from random weights
VERSION = 1
METADATA_KEY = "kdqat"

Arrays = dict[str, NDArray[Any]]


@dataclass
class PackedParts:
    """What a packed checkpoint holds.

    Attributes:
        arrays: every tensor, as it is stored.
        config: the model's configuration, as in config.json.
        record: what is recorded of the model, under `about` in the file.
        shapes: ternary weight → (rows, columns, number of scales).
    """

    arrays: Arrays
    config: dict[str, Any]
    record: Record
    shapes: dict[str, tuple[int, int, int]]

    def scales(self) -> dict[str, NDArray[np.float32]]:
        """Name → FP32 scales (1,) or (O,) of every ternary weight."""
        scales, start = {}, 0
        for name, (_, _, count) in self.shapes.items():
            scales[name] = self.arrays[SCALES][start : start + count].astype(np.float32)
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
        if header.get("version") != VERSION:
            raise MissingInputError(
                f"{path} has format version {header.get('version')}; this kdqat reads version {VERSION}.",
                "kdqat export",
            )
        claimed = header.pop("sha256", None)
        if digest(arrays, header) != claimed:
            raise MissingInputError(f"{path} was altered after it was written: its sha256 does not match.")
        if not _is_sound(arrays, header):
            raise MissingInputError(f"{path} does not hold what its own header says.", "kdqat export")
        if name := not_finite(arrays):
            raise MissingInputError(f"{path}: {name} is not finite.", "kdqat distill")
        shapes = {name: (rows, columns, scales) for name, (rows, columns, scales) in header["ternary"].items()}
        super().__init__(arrays, header["config"], read_record(header["about"], f"{path}: about"), shapes)
        if fault := fault_of(self):
            raise MissingInputError(f"{path} does not fit its own configuration: {fault}", "kdqat export")


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    if not is_there(path) or path.is_dir():
        raise MissingInputError(f"There is no packed checkpoint {path}.", "kdqat export")
    open_file(path).close()  # refuses what is no regular file: a named pipe would block
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            arrays, metadata = {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        header = json.loads(metadata.get(METADATA_KEY, "null"))
    # AttributeError and KeyError: numpy has not all of safetensors' types; OSError: it cannot be read.
    except (
        *(SafetensorError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, OSError, MemoryError),
    ) as error:
        raise MissingInputError(f"{path} is truncated, altered or not a safetensors file ({error}).") from error
    if not isinstance(header, dict):
        raise MissingInputError(f"{path} is not a packed checkpoint of kdqat.", "kdqat export")
    return arrays, header


def _is_sound(arrays: Arrays, header: dict[str, Any]) -> bool:
    """Whether every ternary weight is there in its size; a digest only says that a file is as it was written."""
    ternary: Any = header.get("ternary")
    if not all(isinstance(header.get(key), dict) for key in ("config", "about", "ternary")):
        return False
    scales = 0
    for name, shape in ternary.items():
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
            return False
        rows, columns, count = shape
        array = arrays.get(name)
        if array is None or array.dtype != np.uint8 or array.shape != (packed_size(rows * columns),):
            return False
        if count not in (1, rows) or array.max() > LARGEST_BYTE:
            return False
        scales += count
    rest = {name: array for name, array in arrays.items() if name not in ternary}
    if any(array.dtype not in (np.float16, np.float32) for array in rest.values()):
        return False
    return not ternary or (SCALES in rest and rest[SCALES].shape == (scales,))


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
