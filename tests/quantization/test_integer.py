"""The integer product of a student in training against the same layer in float64, and what it remembers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.quantization.activations import ActivationQuantizer
from kdqat_cli.quantization.integer import integer_linear, multiplies_integers
from kdqat_cli.quantization.layers import QuantizedLinear
from kdqat_cli.quantization.weights import WeightQuantizer

WEIGHTS = WeightQuantizer("ternary", 0.15)  # some weights of the layers below lie beyond


def gradients(layer: QuantizedLinear, inputs: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients of input, weight and bias, in float64."""
    inputs = inputs.detach().clone().requires_grad_()
    layer.zero_grad()
    out = layer(inputs)
    out.backward(upstream)
    held = [inputs.grad, layer.weight.grad, layer.bias.grad if layer.bias is not None else torch.zeros(())]
    return [out.detach().double(), *(gradient.double() for gradient in held if gradient is not None)]


@pytest.mark.parametrize("scale", ["token", "batch"])
@pytest.mark.parametrize("clip", [None, 1.0, 100.0])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_same_layer_in_float64(scale: str, clip: float | None, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(33, 17, bias=bias)
    inputs, upstream = torch.randn(2, 5, 33), torch.randn(2, 5, 17)
    quantizer = ActivationQuantizer(8, clip, scale)  # type: ignore[arg-type]
    layer = QuantizedLinear(plain, WEIGHTS, quantizer, frozen=False)
    mine = gradients(layer, inputs, upstream)
    expected = gradients(layer.double(), inputs.double(), upstream.double())
    for name, here, there in zip(("output", "input", "weight", "bias"), mine, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5, msg=name)


def test_serves_only_a_student_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    if not multiplies_integers(torch.zeros(1)):
        pytest.skip("this processor multiplies no integers")
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return integer_linear(*args)

    monkeypatch.setattr("kdqat_cli.quantization.layers.integer_linear", counted)
    layer = QuantizedLinear(nn.Linear(8, 8), WEIGHTS, ActivationQuantizer(8, None), frozen=False)
    trained = layer(torch.ones(1, 8))
    assert calls == [1]
    torch.testing.assert_close(layer.eval()(torch.ones(1, 8)), trained)
    full = QuantizedLinear(nn.Linear(8, 8), WEIGHTS, None, frozen=False)
    eight_bit = QuantizedLinear(nn.Linear(8, 8), WeightQuantizer("int8", None), ActivationQuantizer(8, None), False)
    for other in (full, eight_bit):
        other(torch.ones(1, 8))
    assert calls == [1]


def test_one_tensor_is_quantised_once_and_a_changed_one_anew() -> None:
    quantizer = ActivationQuantizer(8, None)
    values = torch.randn(3, 4)
    first = quantizer.codes(values)
    assert quantizer.codes(values) is first
    assert quantizer.codes(values.clone()) is not first
    again = quantizer.codes(values)
    values.mul_(-2)
    changed = quantizer.codes(values)
    assert torch.equal(changed.values, -again.values)
    torch.testing.assert_close(changed.scale, 2 * again.scale)


def test_under_autocast_the_sums_stay_exact_and_the_gradient_is_rounded() -> None:
    if not multiplies_integers(torch.zeros(1)):
        pytest.skip("this processor multiplies no integers")
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(64, 48), WEIGHTS, ActivationQuantizer(8, None), frozen=False)
    inputs, upstream = torch.randn(9, 64), torch.randn(9, 48)
    exact = gradients(layer, inputs, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients(layer, inputs, upstream)
    assert torch.equal(half[0], exact[0])
    for name, here, there in zip(("input", "weight"), half[1:3], exact[1:3], strict=True):
        assert 1e-4 < ((here - there).norm() / there.norm()).item() < 2**-7, name


def test_every_quantised_layer_gives_the_next_one_fp32() -> None:
    """Of bfloat16 the next layer would round other codes than it rounds in an evaluation."""
    layer = QuantizedLinear(nn.Linear(8, 8), WeightQuantizer("int4", None), ActivationQuantizer(8, None), frozen=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.float32
