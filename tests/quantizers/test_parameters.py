"""Quantised parameters of any module."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.quantizers.codes import MATRIX
from kdqat_cli.quantizers.parameters import (
    as_frozen,
    freeze,
    plain_state,
    quantize_parameter,
    quantized_layers,
    quantized_weights,
)
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform
from kdqat_cli.quantizers.weights import StraightThrough

MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(3, 5, 3), (2, 3, 6, 6)),
    "linear": (nn.Linear(6, 4), (3, 6)),
    "normalisation": (nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "LSTM": (nn.LSTM(4, 5, num_layers=2), (7, 2, 4)),
}
each_module = pytest.mark.parametrize(("module", "shape"), MODULES.values(), ids=MODULES)


def result(module: nn.Module, inputs: Tensor) -> Tensor:
    out = module(inputs)
    value: Tensor = out[0] if isinstance(out, tuple) else out
    return value


@each_module
def test_a_module_computes_with_its_quantised_parameters(module: nn.Module, shape: tuple[int, ...]) -> None:
    """The outputs equal those of a plain module with these values, and the latent parameters get its gradients."""
    torch.manual_seed(0)
    plain, quantizer, inputs = deepcopy(module), StraightThrough(Ternary(), 2.5), torch.randn(shape)
    for parameter in plain.parameters():
        parameter.data.normal_()
    quantized = deepcopy(plain)
    names = [name for name, _ in plain.named_parameters()]
    for name, parameter in plain.named_parameters():
        parameter.data = quantizer.codes(parameter.data, MATRIX).value()
        quantize_parameter(quantized, name, quantizer)
    assert list(quantized_weights(quantized)) == names
    assert not quantized_layers(quantized)
    out, expected = result(quantized, inputs), result(plain, inputs)
    assert torch.equal(out, expected)
    torch.autograd.backward([out.square().sum(), expected.square().sum()])
    latent = {name: weight.weight for name, weight in quantized_weights(quantized).items()}
    for name, parameter in plain.named_parameters():
        grad = latent[name].grad
        assert parameter.grad is not None
        assert grad is not None
        assert torch.equal(grad, parameter.grad.where(latent[name].abs() < 2.5, 0))


@each_module
def test_it_is_frozen_at_its_codes_and_keeps_its_names(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    quantized, inputs = deepcopy(module).eval(), torch.randn(shape)
    for name, _ in list(quantized.named_parameters()):
        quantize_parameter(quantized, name, StraightThrough(Ternary(), 2.5))
    before = result(quantized, inputs)
    freeze(quantized)
    assert torch.equal(result(quantized, inputs), before)
    state = plain_state(quantized)
    assert state.keys() == module.state_dict().keys()
    for name, weight in quantized_weights(quantized).items():
        assert torch.equal(state[name], weight.codes().value())
        assert not weight.weight.requires_grad
    other = deepcopy(module).eval()
    other.load_state_dict(state)
    assert torch.equal(result(other, inputs), before)


def test_a_copy_has_its_own_parameters() -> None:
    module = nn.Conv2d(1, 1, 2)
    quantize_parameter(module, "weight", StraightThrough(Ternary(), 2.5))
    copied = deepcopy(module)
    freeze(copied)
    assert not quantized_weights(module)["weight"].frozen
    assert quantized_weights(copied)["weight"].weight is not quantized_weights(module)["weight"].weight


@each_module
def test_a_stochastic_student_is_scored_with_its_saved_codes(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    module = deepcopy(module)
    for name, parameter in list(module.named_parameters()):
        parameter.data.normal_()
        quantize_parameter(module, name, StraightThrough(Uniform(2, 256, "stochastic"), None))
    module.eval()
    latents = {name: weight.weight.detach().clone() for name, weight in quantized_weights(module).items()}
    before = torch.get_rng_state()
    with as_frozen(module, seed=3):
        scored = [result(module, inputs) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before), "the training draws the same random numbers"
    for name, weight in quantized_weights(module).items():
        assert torch.equal(weight.weight, latents[name])
        assert weight.weight.requires_grad
    drawn = [result(module, inputs) for _ in range(9)]
    assert not all(torch.equal(drawn[0], other) for other in drawn), "each use draws new codes"
    freeze(module, seed=3)
    assert all(torch.equal(result(module, inputs), other) for other in scored)
