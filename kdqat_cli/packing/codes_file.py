"""The file with the codes of a frozen student, beside its weights.

model.safetensors has the quantised weights as floats, so that any program that reads a plain checkpoint can load the
folder. codes.safetensors has the codes from which these floats are computed:

    <layer>.levels    integers, in the shape of the weight
    <layer>.scales    F32 (groups,)
    <layer>.offsets   F32 (groups,), if the quantiser has offsets
    <layer>.points    F32 (points,), if the quantiser has points

For a parameter with another name than `weight`, the name of the parameter replaces the name of the layer.

Earlier versions of kdqat did not write this file. In a folder without it, the codes are computed from the floats, and
they must give every float exactly.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import is_there, open_file
from kdqat_cli.quantizers.codes import Codes, recovered
from kdqat_cli.quantizers.layers import QuantizedWeight
from kdqat_cli.quantizers.parameters import quantized_weights

CODES = "codes.safetensors"


def save_codes(model: nn.Module, folder: Path) -> None:
    """Writes the codes of the frozen layers of a model; without such layers, writes no file."""
    tensors: dict[str, Tensor] = {}
    for name, layer in quantized_weights(model).items():
        stem = name.removesuffix(".weight")
        # Copies, because safetensors refuses tensors that share memory, as points of layers may.
        tensors |= {f"{stem}.{part}": values.clone() for part, values in layer.codes().cpu().tensors().items()}
    if tensors:
        # Not with the library's save_file, whose files only the owner may read.
        (folder / CODES).write_bytes(save(tensors))


def load_codes(model: nn.Module, folder: Path, again: str) -> None:
    """Freezes the quantised layers of a model with the codes in its folder.

    Args:
        model: a student with the weights of model.safetensors.
        folder: the model folder of the student.
        again: the command that makes the folder again, for errors.

    Raises:
        MissingInputError: the codes are damaged, or do not give the weights.
    """
    path = folder / CODES
    tensors = _read(path, again) if is_there(path) else None
    for parameter, layer in quantized_weights(model).items():
        name, weight = parameter.removesuffix(".weight"), layer.weight.detach()
        try:
            codes = _of_floats(layer) if tensors is None else _taken(tensors, name, layer)
        except ValueError as error:
            source = folder if tensors is None else path
            raise MissingInputError(f"{source}: {name} has no codes for its weight: {error}.", again) from error
        if not torch.equal(codes.value(), weight):
            raise MissingInputError(f"{path}: the codes of {name} do not give the weight in model.safetensors.", again)
        layer.freeze(codes)
    if tensors:
        raise MissingInputError(f"{path}: {min(tensors)} belongs to no layer.", again)


def _read(path: Path, again: str) -> dict[str, Tensor]:
    open_file(path).close()  # refuses a file that is not regular: a named pipe would block
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise MissingInputError(f"{path} is truncated, altered or not a safetensors file ({error}).", again) from error
    return tensors


def _taken(tensors: dict[str, Tensor], name: str, layer: QuantizedWeight) -> Codes:
    parts = {part: tensors.pop(f"{name}.{part}", None) for part in ("levels", "scales", "offsets", "points")}
    levels, scales = parts["levels"], parts["scales"]
    if levels is None or scales is None:
        raise ValueError(f"{name}.{'levels' if levels is None else 'scales'} is missing")
    if levels.shape != layer.weight.shape or levels.dtype.is_floating_point:
        raise ValueError(f"the levels are {tuple(levels.shape)} of {levels.dtype}")
    for part in ("scales", "offsets", "points"):
        values = parts[part]
        if values is not None and values.dtype != layer.weight.dtype:
            raise ValueError(f"the {part} are {values.dtype}")
    low, high = min(layer.weight_quantizer.quantizer.levels), max(layer.weight_quantizer.quantizer.levels)
    points = parts["points"]
    if points is not None:
        low, high = max(low, 0), min(high, len(points) - 1)
    if levels.numel() and not low <= int(levels.min()) <= int(levels.max()) <= high:
        raise ValueError(f"a level is not in {low} to {high}")
    return Codes(levels, scales, layer.grouping, parts["offsets"], points)


def _of_floats(layer: QuantizedWeight) -> Codes:
    """The codes of a weight, computed from its floats."""
    levels = layer.weight_quantizer.quantizer.levels
    try:
        return recovered(layer.weight.detach(), layer.grouping, max(levels))
    except ValueError as error:
        raise ValueError(f"it is not {layer.described}: {error}") from error
