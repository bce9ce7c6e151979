"""Quantised layers compute what plain layers compute with quantised weights, before and after they are frozen."""

import copy
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.quantizers.symmetric import Symmetric
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.weights import StraightThrough
from tests.quantizers.reference import REFERENCES, eight_bit

FREE = StraightThrough(Ternary(), None)
CLIPPED = StraightThrough(Ternary(), 0.15)  # some weights of the layers below are larger than 0.15
each_weights = pytest.mark.parametrize(
    "weights",
    [FREE, CLIPPED, StraightThrough(Symmetric(4), 0.15), StraightThrough(Symmetric(8), None)],
    ids=["ternary", "ternary 0.15", "int4 0.15", "int8"],
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


def reference(weight: torch.Tensor, quantizer: StraightThrough, rowwise: bool) -> torch.Tensor:
    values, clip = weight.detach().numpy(), quantizer.clip
    formula = REFERENCES[quantizer.quantizer.name]
    return torch.tensor(formula(values if clip is None else np.clip(values, -clip, clip), rowwise))


@each_weights
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_linear_equals_the_plain_computation(
    weights: StraightThrough, bias: bool, quantizer: ActivationQuantizer | None
) -> None:
    plain = linear(bias)
    inputs = torch.randn(2, 5, 33, dtype=torch.float64)
    weight = reference(plain.weight, weights, rowwise=False)
    expected = rounded(inputs, quantizer) @ weight.T + (plain.bias if bias else 0)
    out = QuantizedLinear(plain, weights, quantizer)(inputs)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("weights", [CLIPPED, StraightThrough(Symmetric(4), 0.15)], ids=["ternary", "int4"])
@pytest.mark.parametrize("scale", ["token", "batch"])
def test_the_gradient_of_a_linear_is_that_of_the_quantised_computation(
    weights: StraightThrough, scale: Literal["token", "batch"]
) -> None:
    """dL/dW = Gᵀ·x̂ where |w| < clip, dL/dx = G·Ŵ, dL/db = Σ G: straight through both quantisers."""
    quantizer = ActivationQuantizer(8, 1.0, scale)
    layer = QuantizedLinear(linear(), weights, quantizer)
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
def test_embedding_equals_quantising_the_whole_table(weights: StraightThrough) -> None:
    plain = embedding()
    ids = torch.tensor([[0, 3, 8, 49], [7, 7, 3, 1]])
    table = reference(plain.weight, weights, rowwise=True)
    out = QuantizedEmbedding(plain, weights)(ids)
    torch.testing.assert_close(out, table[ids], rtol=1e-13, atol=0)
    assert not out[0, 2].any(), "a row of zeros"


def test_the_gradient_of_an_embedding_reaches_the_rows_that_were_looked_up() -> None:
    layer = QuantizedEmbedding(embedding(), CLIPPED)
    layer(torch.tensor([[7, 3, 9, 7]])).sum().backward()
    grad = layer.weight.grad
    assert grad is not None
    inside = (layer.weight.detach().abs() < 0.15).double()
    assert torch.equal(grad[7], 2 * inside[7])
    assert torch.equal(grad[9], inside[9])
    grad[[7, 9]] = 0
    assert not grad.any(), "neither the row of padding nor any other"


@each_weights
@pytest.mark.parametrize("size", [1, 31, 384, 1000])
def test_freezing_changes_no_bit(weights: StraightThrough, size: int) -> None:
    """In FP32, in which another order of summation would show."""
    dense = QuantizedLinear(linear().float(), weights, ActivationQuantizer(8, None))
    table = QuantizedEmbedding(embedding(size).float(), weights)
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
def test_a_frozen_weight_is_quantised_in_place(weights: StraightThrough) -> None:
    plain = linear()
    layer = QuantizedLinear(plain, weights, None)
    assert layer.weight is plain.weight
    latent = plain.weight.detach().clone()
    layer.freeze()
    torch.testing.assert_close(layer.weight.detach(), reference(latent, weights, False), rtol=1e-13, atol=0)
    assert layer.weight is plain.weight


@each_weights
@pytest.mark.parametrize("meta", [False, True])
def test_a_layer_can_be_frozen_at_given_codes(weights: StraightThrough, meta: bool) -> None:
    """Also for a layer whose weight has no storage yet."""
    codes, inputs = QuantizedLinear(linear(), weights, None).codes(), torch.randn(2, 33, dtype=torch.float64)
    with torch.device("meta" if meta else "cpu"):
        other = QuantizedLinear(nn.Linear(33, 17, bias=False, dtype=torch.float64), weights, None)
    other.freeze(codes)
    assert torch.equal(other.codes().levels, codes.levels)
    assert torch.equal(other.codes().scales, codes.scales)
    assert torch.equal(other(inputs), F.linear(inputs, codes.value()))


def test_a_frozen_layer_moves_and_copies_with_its_codes() -> None:
    layer = QuantizedLinear(linear(), FREE, None)
    layer.freeze()
    codes = copy.deepcopy(layer).float().codes()
    assert torch.equal(codes.levels, layer.codes().levels)
    assert codes.scales.dtype == torch.float32
    assert copy.deepcopy(layer).to("meta").codes().levels.is_meta


def test_parameter_names_are_those_of_the_plain_layers() -> None:
    assert QuantizedLinear(linear(), FREE, None).state_dict().keys() == linear().state_dict().keys()
    assert QuantizedLinear(linear(False), FREE, None).state_dict().keys() == linear(False).state_dict().keys()
    assert QuantizedEmbedding(embedding(), FREE).state_dict().keys() == embedding().state_dict().keys()
