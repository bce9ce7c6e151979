"""Quantised parameters of any module, and all quantised weights of a model by name.

`quantize_parameter` quantises one parameter of a module in place, whatever the module is: torch's parametrisation
computes it anew at each use, from a latent parameter that is trained. The layers of layers.py do the same for the
linears and embeddings of encoders, whose products they compute in integers.

A parametrised parameter has another name in the module's state: `plain_state` gives the state under the plain names.
"""

import re
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdqat_cli.quantizers.codes import MATRIX
from kdqat_cli.quantizers.layers import QuantizedWeight
from kdqat_cli.quantizers.points import mean_bits
from kdqat_cli.quantizers.weights import StraightThrough

_ORIGINAL = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")
_OWN = re.compile(r"(^|\.)parametrizations\.([^.]+)\.0$")


class QuantizedParameter(QuantizedWeight):
    """One parameter of a module, with one scale for all of it unless the quantiser groups otherwise."""

    def __init__(self, weight_quantizer: StraightThrough) -> None:
        """Sets what quantises it; `quantize_parameter` says which parameter it is."""
        super().__init__(weight_quantizer, MATRIX)
        self._holder: tuple[Any, ...] = ()  # a tuple, so that what holds this module is no part of it

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The latent parameter; of a frozen one, the value of its codes."""
        latent: nn.Parameter = self._holder[0].original
        return latent

    def forward(self, latent: Tensor) -> Tensor:
        """The quantised value of the latent parameter."""
        return self._quantized(latent)

    def _put(self, weight: Any) -> None:
        self._holder[0].original = weight


def quantize_parameter(module: nn.Module, name: str, quantizer: StraightThrough) -> None:
    """Quantises a parameter of a module at each use, until it is frozen.

    Args:
        module: changed in place.
        name: of the parameter.
        quantizer: what quantises it.
    """
    parameter = QuantizedParameter(quantizer)
    parametrize.register_parametrization(module, name, parameter, unsafe=True)  # its own check would quantise it
    parameter._holder = (module.parametrizations[name],)  # type: ignore[index]
    if isinstance(module, nn.RNNBase) and _look_up not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_look_up)  # it keeps a list of its parameters


def _look_up(module: Any, _: Any) -> None:
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The quantised weights of a model by the plain name of their parameter, in the model's order."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedWeight):
            own = isinstance(module, QuantizedParameter)
            found[_OWN.sub(r"\1\2", name) if own else f"{name}.weight"] = module
    return found


def quantized_layers(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The quantised layers of a model by name, in the model's order."""
    found = quantized_weights(model).items()
    return {name.removesuffix(".weight"): one for name, one in found if not isinstance(one, QuantizedParameter)}


def freeze(model: nn.Module) -> None:
    """Freezes every quantised weight of a model."""
    for weight in quantized_weights(model).values():
        weight.freeze()


def level_bits(model: nn.Module) -> float | None:
    """The mean over a model's quantised weights of log2 of the number of levels; None: nothing is quantised."""
    counts, sizes = {}, {}
    for name, weight in quantized_weights(model).items():
        points = weight.codes().points
        counts[name] = len(weight.weight_quantizer.quantizer.levels if points is None else points)
        sizes[name] = weight.weight.numel()
    return mean_bits(counts, sizes) if sizes else None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under the names of the model that is not quantised."""
    return {plain_name(name): tensor for name, tensor in model.state_dict().items()}


def plain_name(name: str) -> str:
    """The name that a tensor of the state has in the model that is not quantised."""
    return _ORIGINAL.sub(r"\1\2", name)
