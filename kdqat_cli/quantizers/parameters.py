"""Quantised parameters of any module, and all quantised weights of a model by name.

`quantize_parameter` quantises one parameter of any module in place. torch's parametrisation computes it again at each
use from a latent parameter, which is trained. The layers of layers.py do the same for the linears and embeddings of
encoders, and compute their products in integers.

A parametrised parameter has another name in the state of its module. `plain_state` returns the state under plain names.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kdqat_cli.quantizers.codes import MATRIX
from kdqat_cli.quantizers.layers import QuantizedWeight
from kdqat_cli.quantizers.points import mean_bits
from kdqat_cli.quantizers.weights import StraightThrough

_ORIGINAL = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")
_OWN = re.compile(r"(^|\.)parametrizations\.([^.]+)\.0$")


class QuantizedParameter(QuantizedWeight):
    """One parameter of a module, with a single scale unless the quantiser has a grouping of its own."""

    def __init__(self, weight_quantizer: StraightThrough) -> None:
        """Sets the quantiser; `quantize_parameter` sets the parameter."""
        super().__init__(weight_quantizer, MATRIX)
        # A tuple, so that torch does not register the list, which holds this module, as its submodule.
        self._holder: tuple[parametrize.ParametrizationList, ...] = ()

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The latent parameter; if frozen, the value of its codes."""
        latent = self._holder[0].original
        assert isinstance(latent, nn.Parameter)
        return latent

    def forward(self, latent: Tensor) -> Tensor:
        """The quantised value of the latent parameter."""
        return self._quantized(latent)

    def _put(self, weight: Tensor) -> None:
        self._holder[0].original = weight


def quantize_parameter(module: nn.Module, name: str, quantizer: StraightThrough) -> None:
    """Quantises a parameter of a module at each use, until it is frozen.

    Args:
        module: changed in place.
        name: name of the parameter in the module.
        quantizer: quantises it.
    """
    parameter = QuantizedParameter(quantizer)
    # unsafe: torch's check would compute the quantised value once.
    parametrize.register_parametrization(module, name, parameter, unsafe=True)
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    holder = lists[name]
    assert isinstance(holder, parametrize.ParametrizationList)
    parameter._holder = (holder,)
    if isinstance(module, nn.RNNBase) and _look_up not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_look_up)


def _look_up(module: nn.RNNBase, _: object) -> None:
    """Renews the list of its parameters that a recurrent layer of torch keeps."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The quantised weights of a model by the plain names of their parameters, in the order of the model."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedWeight):
            own = isinstance(module, QuantizedParameter)
            found[_OWN.sub(r"\1\2", name) if own else f"{name}.weight"] = module
    return found


def quantized_layers(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The quantised layers of a model by name, in the order of the model."""
    found = quantized_weights(model).items()
    return {name.removesuffix(".weight"): one for name, one in found if not isinstance(one, QuantizedParameter)}


def freeze(model: nn.Module, seed: int = 0) -> None:
    """Freezes every quantised weight of a model.

    Args:
        model: changed in place.
        seed: seed of a stochastic quantiser; equal weights and seeds give equal codes.
    """
    with _seeded(seed) if _drawing(model) else nullcontext():
        for weight in quantized_weights(model).values():
            weight.freeze()


@contextmanager
def as_frozen(model: nn.Module, seed: int) -> Iterator[None]:
    """Gives a model with stochastic codes the codes of `freeze` with this seed, for the block; else does nothing."""
    latents = [(weight, weight.weight.detach().clone()) for weight in _drawing(model)]
    if latents:
        freeze(model, seed)
    try:
        yield
    finally:
        for weight, latent in latents:
            weight.thaw(latent)


def _drawing(model: nn.Module) -> list[QuantizedWeight]:
    """The weights whose quantiser draws new codes at each use."""
    weights = [weight for weight in quantized_weights(model).values() if not weight.frozen]
    return [weight for weight in weights if getattr(weight.weight_quantizer.quantizer, "draws", False)]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of a seed for the block, on the CPU and the GPU in use; afterwards the old sequence continues."""
    here = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=here):
        torch.manual_seed(seed)
        yield


def level_bits(model: nn.Module) -> float | None:
    """The mean of log2(number of levels) over all quantised weights of a model; None: no weight is quantised."""
    counts, sizes = {}, {}
    for name, weight in quantized_weights(model).items():
        points = weight.codes().points
        counts[name] = len(weight.weight_quantizer.quantizer.levels if points is None else points)
        sizes[name] = weight.weight.numel()
    return mean_bits(counts, sizes) if sizes else None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model under the names of the plain model."""
    return {_ORIGINAL.sub(r"\1\2", name): tensor for name, tensor in model.state_dict().items()}
