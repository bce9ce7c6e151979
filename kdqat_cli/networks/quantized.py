"""Quantises a full-precision network in place."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.config import Quantization
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.dropout import use_fast_dropout
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import family_of, layers_of, module_at
from kdqat_cli.networks.nets import NETS
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.parameters import quantize_parameter
from kdqat_cli.quantizers.weights import StraightThrough


def quantize_model(model: PreTrainedModel, settings: Quantization) -> None:
    """Replaces the weights of a network by quantised weights with the same parameters.

    In an encoder these are the linears and the word embedding. In any other network these are all matrices, and also
    the vectors if `settings.vectors` is set. Parameters that `settings.exempt` names are left out. With the weights
    `fp32` nothing changes.

    Args:
        model: a network of a known architecture; changed in place.
        settings: how to quantise.

    Raises:
        ConfigError: kdqat does not know the architecture, or a name in `settings.exempt` matches no parameter.
    """
    if settings.weights == "fp32":
        return
    weights = StraightThrough.of(settings)
    quantizer = None
    if settings.activations == "int8":
        quantizer = ActivationQuantizer(8, settings.activation_clip, settings.activation_scale)
    net = NETS.get(model.config.model_type)
    if net is not None:
        exempt = _exempt(model, settings.exempt, {"first": f"{net.first}.*", "last": f"{net.last}.*"})
        _quantize_parameters(model, _Plan(weights, quantizer, settings.vectors, exempt))
        return
    family = family_of(model)
    exempt = _exempt(model, settings.exempt, {"first": f"{family.word_embedding}.weight", "last": "classifier*"})
    _quantize_encoder(model, _Plan(weights, quantizer, settings.vectors, exempt))


class _Plan(NamedTuple):
    """How the parameters of a network are quantised."""

    weights: StraightThrough
    activations: ActivationQuantizer | None
    vectors: bool
    exempt: Callable[[str], bool]


def _exempt(model: PreTrainedModel, patterns: list[str], outer: dict[str, str]) -> Callable[[str], bool]:
    """A function from the name of a parameter to whether it stays in full precision."""
    names = [name for name, _ in model.named_parameters()]
    wanted = [outer.get(pattern, pattern) for pattern in patterns]
    for pattern, known in zip(wanted, patterns, strict=True):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"quantization.exempt: no parameter of the network is called {known}; the first is {names[0]}.",
                "--set 'quantization.exempt=[first, last]'",
            )
    return lambda name: any(fnmatchcase(name, pattern) for pattern in wanted)


def _quantize_encoder(model: PreTrainedModel, plan: _Plan) -> None:
    if plan.vectors:
        raise ConfigError(
            "quantization.vectors: an encoder's biases and normalisation stay in full precision.",
            "--set quantization.vectors=false",
        )
    family, base = family_of(model), model.base_model
    for name, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and not plan.exempt(f"{family.base}.{name}.weight"):
            _replace(base, name, QuantizedLinear(module, plan.weights, plan.activations))
    if not plan.exempt(f"{family.word_embedding}.weight"):
        _replace(base, family.words, QuantizedEmbedding(module_at(base, family.words), plan.weights))
    for layer in layers_of(model):
        module_at(layer, family.attention).quantizer = plan.activations
    use_fast_dropout(model)
    use_kdqat_attention(model)


def _quantize_parameters(model: PreTrainedModel, plan: _Plan) -> None:
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            matrix = parameter.dim() > 1
            if not (matrix or plan.vectors) or plan.exempt(f"{path}.{name}" if path else name):
                continue
            quantize_parameter(module, name, plan.weights)
            if matrix and plan.activations is not None and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                module.register_forward_pre_hook(_rounding(plan.activations))


def _rounding(quantizer: ActivationQuantizer) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    """A hook that quantises the input of a module: one scale per image in a convolution, per vector in a linear."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        values = inputs[0]
        if isinstance(module, nn.Linear):
            return (quantizer(values),)
        return (quantizer(values.flatten(1)).view_as(values),)

    return hook


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
