"""Runs a student in memory on the engine, so that it is evaluated by the engine that later runs its packed file."""

import torch
from transformers import PreTrainedModel

from kdqat_cli.config import Quantization
from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.errors import ConfigError
from kdqat_cli.native.library import TORCH, kernel_here
from kdqat_cli.packing.hf_model import model_parts
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.parameters import quantized_layers
from kdqat_cli.record import Record


def native_student(model: PreTrainedModel) -> NativeModel | None:
    """The student in the native library, with as many threads as torch has.

    On the same kernel, its logits are bit for bit those of the packed file that `export` makes of the student.

    Args:
        model: any classifier; it is not changed, and its training can continue.

    Returns:
        None if torch must compute: the model is not a student with 8-bit activations, its weights are not ternary, a
        batch shares scales, it is on a GPU or not in FP32, the engine does not support its architecture, a weight is
        NaN or infinite, the library is missing, or KDQAT_KERNEL is `torch`.

    Raises:
        ConfigError: KDQAT_KERNEL names a kernel that this CPU cannot run.
    """
    quantization = _quantization(model)
    if quantization is None or model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    kernel = kernel_here()
    if kernel == TORCH:
        return None
    try:
        return NativeModel(model_parts(model, Record(quantization=quantization)), kernel, torch.get_num_threads())
    except ConfigError:  # unsupported weights or architecture; or NaN, which torch will show
        return None


def _quantization(model: PreTrainedModel) -> Quantization | None:
    layers = quantized_layers(model).values()
    linears = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
    if not linears or not all(layer.is_ternary for layer in layers):
        return None
    quantizers = {layer.quantizer for layer in linears}
    quantizer = quantizers.pop()
    if quantizers or quantizer is None or quantizer.scale != "token":
        return None
    clip = quantizer.clip
    return Quantization(
        weights=linears[0].weight_quantizer.quantizer.name,
        weight_clip=None,
        activations="int8",
        activation_clip=clip,
        activation_scale="token",
    )
