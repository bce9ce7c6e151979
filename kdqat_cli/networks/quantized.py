"""Turns a full-precision classifier into a quantised one, in place."""

from torch import nn
from transformers import PreTrainedModel

from kdqat_cli.config import Quantization
from kdqat_cli.networks.dropout import use_fast_dropout
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import family_of, layers_of, module_at
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.weights import StraightThrough


def quantize_model(model: PreTrainedModel, settings: Quantization) -> None:
    """Replaces the encoder's linears and word embedding with quantised ones that own the same parameters.

    Args:
        model: a sequence classifier of a known architecture; changed in place.
        settings: what the numbers may be.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    family = family_of(model)
    weights = StraightThrough.of(settings)
    quantizer = None
    if settings.activations == "int8":
        quantizer = ActivationQuantizer(8, settings.activation_clip, settings.activation_scale)
    base = model.base_model
    linears = [(name, module) for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        _replace(base, name, QuantizedLinear(linear, weights, quantizer))
    table = module_at(base, family.words)
    _replace(base, family.words, QuantizedEmbedding(table, weights))
    for layer in layers_of(model):
        module_at(layer, family.attention).quantizer = quantizer
    use_fast_dropout(model)
    use_kdqat_attention(model)


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
