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

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdqat_cli.errors import MissingInputError
from kdqat_cli.packing.trits import pack, unpack
from kdqat_cli.quantization.ternary import join

FILE_NAME = "kdqat.safetensors"  # not model.safetensors: stock loaders must fail, not start from random weights
VERSION = 1
_KEY = "kdqat"
_SCALES = "scales"

Ternary = dict[str, tuple[Tensor, Tensor]]


def write_packed(
    path: Path,
    ternary: Ternary,
    dense: dict[str, Tensor],
    config: dict[str, Any],
    about: dict[str, Any],
    half: bool = False,
) -> None:
    """Writes a packed checkpoint.

    Args:
        path: the file.
        ternary: name → codes (O, I) int8 and scales (1,) or (O,).
        dense: name → every other tensor of the model.
        config: the model's configuration, as in config.json.
        about: where the model comes from; anything that JSON holds.
        half: store scales and dense tensors as FP16 instead of FP32.
    """
    rest = torch.float16 if half else torch.float32
    tensors = {name: tensor.to(rest).contiguous() for name, tensor in dense.items()}
    shapes = {}
    for name, (codes, scales) in ternary.items():
        tensors[name] = torch.from_numpy(pack(codes.numpy()))
        shapes[name] = [*codes.shape, scales.numel()]
    if ternary:
        tensors[_SCALES] = torch.cat([scales for _, scales in ternary.values()]).to(rest)
    header = {"version": VERSION, "config": config, "ternary": shapes, "about": about}
    header["sha256"] = _digest(tensors, header)
    save_file(tensors, path, metadata={_KEY: _json(header)})


class PackedCheckpoint:
    """A packed checkpoint that was read and found whole.

    Attributes:
        tensors: everything in the file, as it is stored.
        config: the model's configuration.
        about: where the model comes from.
        shapes: ternary weight → (rows, columns, number of scales).
    """

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            MissingInputError: no such file, or truncated, altered, or not kdqat's.
        """
        self.tensors, header = _read(path)
        if header.get("version") != VERSION:
            raise MissingInputError(
                f"{path} has format version {header.get('version')}; this kdqat reads version {VERSION}.",
                "kdqat export",
            )
        claimed = header.pop("sha256", None)
        if _digest(self.tensors, header) != claimed:
            raise MissingInputError(f"{path} was altered after it was written: its sha256 does not match.")
        self.config: dict[str, Any] = header["config"]
        self.about: dict[str, Any] = header["about"]
        self.shapes: dict[str, tuple[int, int, int]] = {
            name: (rows, columns, scales) for name, (rows, columns, scales) in header["ternary"].items()
        }

    def codes_and_scales(self) -> Ternary:
        """Name → codes (O, I) int8 and FP32 scales (1,) or (O,) of every ternary weight."""
        ternary: Ternary = {}
        start = 0
        for name, (rows, columns, count) in self.shapes.items():
            codes = torch.from_numpy(unpack(self.tensors[name].numpy(), rows * columns)).view(rows, columns)
            ternary[name] = codes, self.tensors[_SCALES][start : start + count].float()
            start += count
        return ternary

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state in FP32, ternary weights multiplied out."""
        state = {
            name: tensor.float() for name, tensor in self.tensors.items() if name not in self.shapes and name != _SCALES
        }
        return state | {name: join(codes, scales) for name, (codes, scales) in self.codes_and_scales().items()}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise MissingInputError(f"There is no packed checkpoint {path}.", "kdqat export")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors, metadata = {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        header = json.loads(metadata.get(_KEY, "null"))
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise MissingInputError(f"{path} is truncated, altered or not a safetensors file ({error}).") from error
    if not isinstance(header, dict):
        raise MissingInputError(f"{path} is not a packed checkpoint of kdqat.", "kdqat export")
    return tensors, header


def _digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    digest = hashlib.sha256(_json(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data if tensor.numel() else b"")
    return digest.hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
