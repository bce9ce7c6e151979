"""The packed checkpoint: one safetensors file that holds a ternary classifier at 1.6 bits a ternary weight.

    <name>        F32 or F16   every tensor that is not ternary
    <name>        U8           a ternary weight, five codes a byte (see trits.py)
    scales        F32 or F16   the scales of all ternary weights, in the order of the metadata's `ternary`

The metadata's one key, `kdqat`, is JSON: `version`, `config` (the model's config.json), `ternary` (name → [rows,
columns, number of scales]), `about` (task, labels, quantiser, hashes of the sources, versions) and `sha256`, over
everything else in the file. One key, because safetensors writes several in random order, and equal models shall be
equal files. Reading checks the digest first: a truncated, altered or foreign file is refused, and nothing is
unpickled.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import Tensor

from kdqat_cli.codecs.trits import pack, unpack
from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.packed_file import (
    FILE_NAME,
    METADATA_KEY,
    VERSION,
    Arrays,
    PackedFile,
    PackedParts,
    digest,
    not_finite,
    to_json,
)
from kdqat_cli.packing.soundness import SCALES
from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes
from kdqat_cli.record import Record

__all__ = ["FILE_NAME", "PackedCheckpoint", "packed_parts", "write_packed"]


def packed_parts(
    weights: dict[str, Codes], dense: dict[str, Tensor], config: dict[str, Any], record: Record, half: bool = False
) -> PackedParts:
    """A model as a packed checkpoint holds it.

    Args:
        weights: name → a weight (O, I) with levels of -1, 0 and 1, and one scale per matrix or row.
        dense: name → every other tensor of the model.
        config: the model's configuration, as in config.json.
        record: where the model comes from.
        half: scales and dense tensors as FP16 instead of FP32.

    Raises:
        ConfigError: a value is NaN or infinite, or too large for FP16.
    """
    rest = torch.float16 if half else torch.float32
    arrays: Arrays = {name: tensor.to(rest).contiguous().numpy() for name, tensor in dense.items()}
    shapes = {}
    for name, codes in weights.items():
        arrays[name] = pack(codes.levels.numpy())
        rows, columns = codes.levels.shape
        shapes[name] = (rows, columns, codes.scales.numel())
    if weights:
        arrays[SCALES] = torch.cat([codes.scales for codes in weights.values()]).to(rest).numpy()
    if broken := not_finite(arrays):
        where, fix = ("FP16", "kdqat export, no --half") if half else ("FP32", "kdqat distill")
        raise ConfigError(f"The student's {broken} is not finite in {where}.", fix)
    return PackedParts(arrays, config, record, shapes)


def write_packed(path: Path, parts: PackedParts) -> None:
    """Writes a packed checkpoint."""
    header = {"version": VERSION, "config": parts.config, "ternary": parts.shapes, "about": parts.record.to_json()}
    header["sha256"] = digest(parts.arrays, header)
    # Not by the library's save_file, whose files are the user's alone to read.
    path.write_bytes(save(parts.arrays, metadata={METADATA_KEY: to_json(header)}))


class PackedCheckpoint(PackedFile):
    """A packed checkpoint that was read and found whole, as torch's tensors.

    Attributes:
        tensors: everything in the file, as it is stored; for more see `PackedFile`.
    """

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            MissingInputError: no such file, or truncated, altered, or not kdqat's.
        """
        super().__init__(path)
        self.tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    def codes(self) -> dict[str, Codes]:
        """Name → levels (O, I) int8 and FP32 scales of every ternary weight."""
        weights = {}
        for name, scales in self.scales().items():
            rows, columns, count = self.shapes[name]
            levels = torch.from_numpy(unpack(self.arrays[name], rows * columns)).view(rows, columns)
            weights[name] = Codes(levels, torch.from_numpy(scales), MATRIX if count == 1 else ROW)
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state in FP32, ternary weights multiplied out."""
        return self.dense() | {name: codes.value() for name, codes in self.codes().items()}

    def dense(self) -> dict[str, Tensor]:
        """The part of the model's state that is not ternary, in FP32."""
        return {
            name: tensor.float() for name, tensor in self.tensors.items() if name not in self.shapes and name != SCALES
        }
