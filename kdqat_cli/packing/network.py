"""Packed files of kdqat's own networks (networks/nets.py): quantised parameters as codes, other tensors as floats.

The number of batches that a batch norm counts is left out, because it only describes the training.
"""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.config import CodecName
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.nets import NETS
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint, packed_parts, write_packed
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.parameters import plain_state, quantized_weights
from kdqat_cli.record import Record


def save_network(
    model: PreTrainedModel, folder: Path, record: Record, half: bool = False, codec: CodecName | None = None
) -> None:
    """Writes the packed file of a frozen student into an existing folder.

    Args:
        model: the student.
        folder: the folder for the file.
        record: the record of the student; loading needs its `quantization`.
        half: store scales, offsets, points and other tensors as FP16.
        codec: see `write_packed`.

    Raises:
        ConfigError: a value is NaN or infinite, or the codec cannot hold the levels.
    """
    weights = {name: weight.codes().cpu() for name, weight in quantized_weights(model).items()}
    dense = {name: tensor.cpu() for name, tensor in _floats(plain_state(model)).items() if name not in weights}
    parts = packed_parts(weights, dense, model.config.to_dict(), record, half)
    if fault := fault_of(parts):
        raise ConfigError(f"The student cannot be packed: {fault}", "kdqat distill")
    write_packed(folder / FILE_NAME, parts, codec)


def load_network(path: Path) -> tuple[PreTrainedModel, Record]:
    """The network of a packed file, in eval mode, and its record.

    Its logits equal those of the student bit for bit (FP32 remainder).

    Raises:
        MissingInputError: the file does not exist, is truncated, altered or foreign, or its parts do not fit.
    """
    checkpoint = PackedCheckpoint(path)
    quantization = checkpoint.record.quantization
    net = NETS.get(checkpoint.config["model_type"])
    if quantization is None or net is None:
        raise MissingInputError(f"{path} does not contain a network that kdqat knows.", "kdqat export")
    config_class, model_class = net.classes()
    codes, dense = checkpoint.codes(), checkpoint.dense()
    try:
        config = config_class.from_dict(dict(checkpoint.config))
        with init_empty_weights():  # checked first, because a small file may claim sizes that do not fit the memory
            _check_shapes(model_class(config), codes, dense, path)
        model: PreTrainedModel = model_class(config)
    except (ValueError, TypeError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        raise MissingInputError(f"{path}: the network's configuration is damaged: {error}.", "kdqat export") from error
    quantize_model(model, quantization)
    weights = quantized_weights(model)
    if weights.keys() != codes.keys():
        raise MissingInputError(f"{path} does not fit its own record: other parameters are quantised.", "kdqat export")
    for name, weight in weights.items():
        weight.freeze(codes[name])
    model.load_state_dict(dense, strict=False)
    return model.eval(), checkpoint.record


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _check_shapes(model: PreTrainedModel, codes: dict[str, Codes], dense: dict[str, Tensor], path: Path) -> None:
    found = {name: codes.levels.shape for name, codes in codes.items()}
    found |= {name: tensor.shape for name, tensor in dense.items()}
    wanted: dict[str, torch.Size] = {name: tensor.shape for name, tensor in _floats(model.state_dict()).items()}
    if found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise MissingInputError(f"{path}: {names[0]} does not fit the network's configuration.", "kdqat export")
