"""The packed checkpoint: one safetensors file with a quantised model.

Version 1 is for ternary models, with 1.6 bits per ternary weight:

    <name>        F32 or F16   every tensor that is not ternary
    <name>        U8           a ternary weight, five codes per byte (codecs/trits.py)
    scales        F32 or F16   the scales of all ternary weights, in the order of `ternary` in the metadata

The metadata has one key, `kdqat`. Its value is JSON with `version`, `config` (the model's config.json), `ternary`
(name → [rows, columns, number of scales]), `about` (task, labels, quantiser, hashes of the sources, versions) and
`sha256` of everything else in the file. There is one key because safetensors writes several keys in random order, and
equal models must give equal files. Reading checks the digest first, so a truncated, altered or foreign file is refused.
Nothing is unpickled.

Version 2 is for any levels, and each weight has its own codec. It has `codes` instead of `ternary` (coded.py). A file
in which all weights are ternary and stored as trits has version 1.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from kdqat_cli.config import CodecName
from kdqat_cli.errors import ConfigError
from kdqat_cli.levels import are_trits
from kdqat_cli.networks.family import Config
from kdqat_cli.packing.coded import SCALES, Arrays, Coded, encoded, split, ternary
from kdqat_cli.packing.packed_file import (
    FILE_NAME,
    METADATA_KEY,
    PackedFile,
    PackedParts,
    digest,
    not_finite,
    to_json,
)
from kdqat_cli.quantizers.codes import Codes, Grouping
from kdqat_cli.record import Record

__all__ = ["FILE_NAME", "PackedCheckpoint", "packed_parts", "write_packed"]


def packed_parts(
    weights: dict[str, Codes], dense: dict[str, Tensor], config: Config, record: Record, half: bool = False
) -> PackedParts:
    """The parts of a packed checkpoint of a model.

    Args:
        weights: name → quantised weight.
        dense: name → other tensor of the model.
        config: the configuration of the model, as in config.json.
        record: the record of the model.
        half: store scales and other tensors as FP16 instead of FP32.

    Raises:
        ConfigError: a value is NaN or infinite, or too large for FP16.
    """
    rest = torch.float16 if half else torch.float32
    arrays: Arrays = {name: tensor.to(rest).contiguous().numpy() for name, tensor in dense.items()}
    trits = record.quantization is None or are_trits(record.quantization.levels)
    packed, shapes, coded = split({name: _coded(codes, rest) for name, codes in weights.items()}, trits)
    arrays |= packed
    floats = {f"{name}.{kind}": values for name, one in coded.items() for kind, values in one.floats().items()}
    if broken := not_finite(arrays | floats):
        where, fix = ("FP16", "kdqat export, no --half") if half else ("FP32", "kdqat distill")
        raise ConfigError(f"The student's {broken} is NaN or infinite in {where}.", fix)
    return PackedParts(arrays, config, record, shapes, coded)


def _coded(codes: Codes, rest: torch.dtype) -> Coded:
    scales, offsets, points = (
        None if values is None else values.to(rest).numpy() for values in (codes.scales, codes.offsets, codes.points)
    )
    assert scales is not None
    return Coded(codes.levels.numpy(), scales, codes.grouping.unit, codes.grouping.size, offsets, points)


def write_packed(path: Path, parts: PackedParts, codec: CodecName | None = None) -> None:
    """Writes a packed checkpoint.

    Args:
        path: path of the file.
        parts: the parts of the model.
        codec: how levels are stored; None: trits if all quantised weights are ternary, else `auto`.

    Raises:
        ConfigError: the codec cannot hold a weight.
    """
    if codec is None:
        codec = "auto" if parts.coded else "trits"
    arrays, header = parts.arrays, {"version": 1, "config": parts.config, "ternary": parts.shapes}
    if parts.coded or codec != "trits":
        weights = {name: ternary(arrays[name], parts.shapes[name], one) for name, one in parts.scales(False).items()}
        try:
            streams, codes = encoded(weights | parts.coded, codec)
        except ValueError as error:
            raise ConfigError(f"The codec {codec} cannot hold the student: {error}.", "--codec auto") from error
        if parts.coded or any(entry["codec"] != "trits" for entry in codes.values()):
            dense = {name: array for name, array in arrays.items() if name not in parts.shapes and name != SCALES}
            arrays, header = dense | streams, {"version": 2, "config": parts.config, "codes": codes}
    header["about"] = parts.record.to_json()
    header["sha256"] = digest(arrays, header)
    # Not with the library's save_file, whose files only the owner may read.
    path.write_bytes(save(arrays, metadata={METADATA_KEY: to_json(header)}))


class PackedCheckpoint(PackedFile):
    """A packed checkpoint that was read and checked, as torch tensors.

    Attributes:
        tensors: `arrays` as tensors; `PackedFile` explains the other attributes.
    """

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            MissingInputError: the file does not exist, is truncated or altered, or is not a packed checkpoint.
        """
        super().__init__(path)
        self.tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    def codes(self) -> dict[str, Codes]:
        """Name → quantised weight, with scales, offsets and points in FP32."""
        scales = self.scales()
        weights = {name: ternary(self.arrays[name], shape, scales[name]) for name, shape in self.shapes.items()}
        return {name: _codes(weight) for name, weight in (weights | self.coded).items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the model in FP32, with the values of quantised weights."""
        return self.dense() | {name: codes.value() for name, codes in self.codes().items()}

    def dense(self) -> dict[str, Tensor]:
        """The tensors of the model that are not quantised, in FP32."""
        return {
            name: tensor.float() for name, tensor in self.tensors.items() if name not in self.shapes and name != SCALES
        }


def _codes(weight: Coded) -> Codes:
    scales, offsets, points = (
        None if values is None else torch.from_numpy(values.astype(np.float32))
        for values in (weight.scales, weight.offsets, weight.points)
    )
    assert scales is not None
    return Codes(torch.from_numpy(weight.levels), scales, Grouping(weight.unit, weight.size), offsets, points)
