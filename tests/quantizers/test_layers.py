"""Quantised layers compute what plain layers compute with quantised weights, before and after they are frozen."""

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear, freeze, quantized_layers
from kdqat_cli.quantizers.weights import WeightQuantizer
from tests.quantizers.reference import REFERENCES, eight_bit

FREE = WeightQuantizer("ternary", None)
CLIPPED = WeightQuantizer("ternary", 0.15)  # of the layers below some weights lie beyond 0.15
each_weights = pytest.mark.parametrize(
    "weights", [FREE, CLIPPED, WeightQuantizer("int4", 0.15), WeightQuantizer("int8", None)], ids=str
)
QUANTIZERS = [
    None,
    ActivationQuantizer(8, None),
    ActivationQuantizer(8, 1.0),
    ActivationQuantizer(8, None, "batch"),
    ActivationQuantizer(8, 1.0, "batch"),
]


def rounded(inputs: torch.Tensor, quantizer: ActivationQuantizer | None) -> torch.Tensor:
    if quantizer is None:
        return inputs
    return torch.tensor(eight_bit(inputs.detach().numpy(), quantizer.clip, quantizer.scale == "batch"))


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(33, 17, bias=bias).double()


def embedding(size: int = 31) -> nn.Embedding:
    torch.manual_seed(0)
    table = nn.Embedding(50, size, padding_idx=3).double()
    with torch.no_grad():
        table.weight *= 0.1
        table.weight[8] = 0
    return table


def reference(weight: torch.Tensor, quantizer: WeightQuantizer, rowwise: bool) -> torch.Tensor:
    values, clip = weight.detach().numpy(), quantizer.clip
    formula = REFERENCES[quantizer.name]
    return torch.tensor(formula(values if clip is None else np.clip(values, -clip, clip), rowwise))


@each_weights
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_linear_equals_the_plain_computation(
    weights: WeightQuantizer, bias: bool, quantizer: ActivationQuantizer | None
) -> None:
    plain = linear(bias)
    inputs = torch.randn(2, 5, 33, dtype=torch.float64)
    weight = reference(plain.weight, weights, rowwise=False)
    expected = rounded(inputs, quantizer) @ weight.T + (plain.bias if bias else 0)
    out = QuantizedLinear(plain, weights, quantizer, frozen=False)(inputs)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("weights", [CLIPPED, WeightQuantizer("int4", 0.15)], ids=str)
@pytest.mark.parametrize("scale", ["token", "batch"])
def test_the_linear_s_gradient_is_that_of_the_quantised_computation(
    weights: WeightQuantizer, scale: Literal["token", "batch"]
) -> None:
    """dL/dW = Gᵀ·x̂ where |w| < clip, dL/dx = G·Ŵ, dL/db = Σ G: straight through both quantisers."""
    quantizer = ActivationQuantizer(8, 1.0, scale)
    layer = QuantizedLinear(linear(), weights, quantizer, frozen=False)
    inputs = torch.randn(6, 33, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 17, dtype=torch.float64)
    layer(inputs).backward(upstream)
    latent = layer.weight.detach()
    assert layer.weight.grad is not None
    assert inputs.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    expected = upstream.T @ rounded(inputs, quantizer) * (latent.abs() < 0.15)
    torch.testing.assert_close(layer.weight.grad, expected)
    expected = upstream @ reference(latent, weights, False) * (inputs.detach().abs() < 1)
    torch.testing.assert_close(inputs.grad, expected)
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))


@each_weights
def test_embedding_equals_quantising_the_whole_table(weights: WeightQuantizer) -> None:
    plain = embedding()
    ids = torch.tensor([[0, 3, 8, 49], [7, 7, 3, 1]])
    table = reference(plain.weight, weights, rowwise=True)
    out = QuantizedEmbedding(plain, weights, frozen=False)(ids)
    torch.testing.assert_close(out, table[ids], rtol=1e-13, atol=0)
    assert not out[0, 2].any(), "a row of zeros"


def test_the_embedding_s_gradient_reaches_the_rows_that_were_looked_up() -> None:
    layer = QuantizedEmbedding(embedding(), CLIPPED, frozen=False)
    layer(torch.tensor([[7, 3, 9, 7]])).sum().backward()
    grad = layer.weight.grad
    assert grad is not None
    inside = (layer.weight.detach().abs() < 0.15).double()
    assert torch.equal(grad[7], 2 * inside[7])
    assert torch.equal(grad[9], inside[9])
    grad[[7, 9]] = 0
    assert not grad.any(), "neither the padding's row nor any other"


@each_weights
@pytest.mark.parametrize("size", [1, 31, 384, 1000])
def test_freezing_changes_no_bit(weights: WeightQuantizer, size: int) -> None:
    """In FP32, where another order of summing would show."""
    dense = QuantizedLinear(linear().float(), weights, ActivationQuantizer(8, None), frozen=False)
    table = QuantizedEmbedding(embedding(size).float(), weights, frozen=False)
    both = nn.ModuleList([dense, table])
    inputs, ids = torch.randn(4, 33), torch.tensor([[0, 1, 2], [3, 49, 7]])

    def outputs() -> list[bytes]:
        tensors = dense(inputs), table(ids), table(ids[:1, :1])
        return [tensor.numpy(force=True).tobytes() for tensor in tensors]

    before = outputs()
    freeze(both)
    assert outputs() == before
    weight = table.weight.clone()
    freeze(both)
    assert torch.equal(table.weight, weight), "a second time does nothing"
    assert not any(layer.weight.requires_grad for layer in quantized_layers(both).values())


@each_weights
def test_a_frozen_weight_is_quantised_and_in_place(weights: WeightQuantizer) -> None:
    plain = linear()
    layer = QuantizedLinear(plain, weights, None, frozen=False)
    assert layer.weight is plain.weight
    latent = plain.weight.detach().clone()
    layer.freeze()
    torch.testing.assert_close(layer.weight.detach(), reference(latent, weights, False), rtol=1e-13, atol=0)
    assert layer.weight is plain.weight


def test_a_layer_made_frozen_uses_its_weight_as_it_is() -> None:
    plain, inputs = linear(), torch.randn(2, 33, dtype=torch.float64)
    assert torch.equal(
        QuantizedLinear(plain, CLIPPED, None, frozen=True)(inputs), F.linear(inputs, plain.weight, plain.bias)
    )


def test_names_are_those_of_the_plain_layers() -> None:
    assert QuantizedLinear(linear(), FREE, None, False).state_dict().keys() == linear().state_dict().keys()
    assert QuantizedLinear(linear(False), FREE, None, False).state_dict().keys() == linear(False).state_dict().keys()
    assert QuantizedEmbedding(embedding(), FREE, False).state_dict().keys() == embedding().state_dict().keys()
