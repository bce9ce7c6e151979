"""The integer product of a student against the same layer in float64, and its cached results."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.integer import integer_linear, multiplies_integers
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.symmetric import Symmetric
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.weights import StraightThrough

TERNARY = StraightThrough(Ternary(), 0.15)  # some weights of the layers below are larger


def gradients(layer: QuantizedLinear, inputs: Tensor, upstream: Tensor) -> list[Tensor]:
    """The output, and the gradients of input, weight and bias, in float64."""
    inputs = inputs.detach().clone().requires_grad_()
    layer.zero_grad()
    out = layer(inputs)
    out.backward(upstream)
    held = [inputs.grad, layer.weight.grad, layer.bias.grad if layer.bias is not None else torch.zeros(())]
    return [out.detach().double(), *(gradient.double() for gradient in held if gradient is not None)]


@pytest.mark.parametrize("scale", ["token", "batch"])
@pytest.mark.parametrize("clip", [None, 1.0, 100.0])
@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_the_same_layer_in_float64(scale: str, clip: float | None, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(33, 17, bias=bias)
    inputs, upstream = torch.randn(2, 5, 33), torch.randn(2, 5, 17)
    quantizer = ActivationQuantizer(8, clip, scale)  # type: ignore[arg-type]
    layer = QuantizedLinear(plain, TERNARY, quantizer)
    mine = gradients(layer, inputs, upstream)
    expected = gradients(layer.double(), inputs.double(), upstream.double())
    for name, here, there in zip(("output", "input", "weight", "bias"), mine, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5, msg=name)


needs_integers = pytest.mark.skipif(not multiplies_integers(torch.zeros(1)), reason="no integer products here")


@needs_integers
def test_it_supports_ternary_weights_with_8_bit_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return integer_linear(*args)

    monkeypatch.setattr("kdqat_cli.quantizers.layers.integer_linear", counted)
    layer = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None))
    trained = layer(torch.ones(1, 8))
    assert calls == [1]
    assert torch.equal(layer.eval()(torch.ones(1, 8)), trained)
    assert calls == [1, 1]
    full = QuantizedLinear(nn.Linear(8, 8), TERNARY, None)
    eight_bit = QuantizedLinear(nn.Linear(8, 8), StraightThrough(Symmetric(8), None), ActivationQuantizer(8, None))
    for other in (full, eight_bit):
        other(torch.ones(1, 8))
    assert calls == [1, 1]


@needs_integers
def test_an_evaluation_computes_the_codes_of_a_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    plain = QuantizedLinear.codes

    def counted(layer: QuantizedLinear) -> Codes:
        taken.append(layer.training)
        return plain(layer)

    monkeypatch.setattr(QuantizedLinear, "codes", counted)
    layer = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None)).eval()
    for _ in range(3):
        layer(torch.ones(1, 8))
    assert taken == [False]
    layer.train()
    for _ in range(3):
        layer(torch.ones(1, 8))
    assert taken == [False, True, True, True]


def changed_by_a_step(layer: QuantizedLinear) -> None:
    layer.train()
    layer(torch.ones(1, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True).step()
    layer.eval()


def changed_in_place(layer: QuantizedLinear) -> None:
    with torch.no_grad():
        layer.weight.mul_(-1)


def loaded(layer: QuantizedLinear) -> None:
    layer.load_state_dict(nn.Linear(8, 8).state_dict())


def assigned(layer: QuantizedLinear) -> None:
    layer.load_state_dict(nn.Linear(8, 8).state_dict(), assign=True)


@pytest.mark.parametrize("change", [changed_by_a_step, changed_in_place, loaded, assigned])
def test_an_evaluation_sees_a_changed_weight(change: Any) -> None:
    """The fused step of an optimiser does not change the version of a tensor."""
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None)).eval()
    inputs = torch.randn(3, 8)
    before = layer(inputs)
    change(layer)
    after = layer(inputs)
    assert not torch.equal(after, before)
    expected = copy.deepcopy(layer).double()(inputs.double())
    torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copied", "pickled"]
)
def test_a_copy_computes_the_same_and_has_its_own_weight(copied: Any) -> None:
    layer = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None)).eval()
    inputs = torch.randn(3, 8)
    before = layer(inputs)
    other = copied(layer)
    assert torch.equal(other(inputs), before)
    changed_in_place(layer)
    assert torch.equal(other(inputs), before)
    assert not torch.equal(layer(inputs), before)


def test_it_works_in_inference_mode() -> None:
    layer = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None)).eval()
    inputs = torch.randn(3, 8)
    expected = layer(inputs)
    with torch.inference_mode():
        assert torch.equal(layer(inputs * 1), expected)
        other = QuantizedLinear(nn.Linear(8, 8), TERNARY, ActivationQuantizer(8, None))
        other.freeze(layer.codes())
        other.bias.copy_(layer.bias)
        assert torch.equal(other.eval()(inputs * 1), expected)


def test_a_tensor_is_quantised_once_and_again_after_a_change() -> None:
    quantizer = ActivationQuantizer(8, None)
    values = torch.randn(3, 4)
    first = quantizer.rounded(values)
    assert quantizer.rounded(values) is first
    assert quantizer.rounded(values.clone()) is not first
    again = quantizer.rounded(values)
    values.mul_(-2)
    changed = quantizer.rounded(values)
    assert torch.equal(changed.values, -again.values)
    torch.testing.assert_close(changed.scale, 2 * again.scale)


@needs_integers
def test_under_autocast_the_sums_stay_exact_and_the_gradient_is_rounded() -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(64, 48), TERNARY, ActivationQuantizer(8, None))
    inputs, upstream = torch.randn(9, 64), torch.randn(9, 48)
    exact = gradients(layer, inputs, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        half = gradients(layer, inputs, upstream)
    assert torch.equal(half[0], exact[0])
    for name, here, there in zip(("input", "weight"), half[1:3], exact[1:3], strict=True):
        assert 1e-4 < ((here - there).norm() / there.norm()).item() < 2**-7, name


def test_every_quantised_layer_gives_fp32_to_the_next() -> None:
    """From bfloat16 the next layer would round to other codes than in an evaluation."""
    layer = QuantizedLinear(nn.Linear(8, 8), StraightThrough(Symmetric(4), None), ActivationQuantizer(8, None))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.float32
