"""The attention function against softmax attention in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.networks.attention import attention
from kdqat_cli.networks.dropout import dropout
from kdqat_cli.quantizers.activations import ActivationQuantizer
from tests.quantizers.reference import Array, eight_bit, softmax

ROWS, HEADS, LENGTH, SIZE = 3, 2, 5, 4
Rounding = Callable[[Array], Array]
ROUNDINGS: list[tuple[ActivationQuantizer | None, Rounding]] = [
    (None, np.asarray),
    (ActivationQuantizer(8, None), eight_bit),
    (ActivationQuantizer(8, None, "batch"), partial(eight_bit, shared=True)),
    (ActivationQuantizer(8, 2.5, "batch"), partial(eight_bit, clip=2.5, shared=True)),
]
each_rounding = pytest.mark.parametrize(("quantizer", "rounding"), ROUNDINGS, ids=["FP32", "token", "batch", "paper"])
REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=bool)


def heads(seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(0, 2, (ROWS, HEADS, LENGTH, SIZE)))


def additive(real: Array) -> Tensor:
    """The mask (B, 1, 1, L): 0 at real keys, the smallest number elsewhere."""
    return torch.tensor(np.where(real, 0.0, np.finfo(np.float64).min))[:, None, None]


def module(quantizer: ActivationQuantizer | None, training: bool = False) -> Any:
    out: Any = nn.Module()
    if quantizer is not None:
        out.quantizer = quantizer
    return out.train(training)


def written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: Array,
    rounding: Rounding,
    scaling: float,
    kept: Array | None = None,
) -> tuple[Array, Array]:
    """Context (B, L, H, D) and scores (B, H, L, L) in float64; `kept` has the factors of dropout."""
    q, k, v = (rounding(x.numpy()) for x in (query, key, value))
    scores, chances = np.zeros((2, ROWS, HEADS, LENGTH, LENGTH))
    for row, head, token in np.ndindex(ROWS, HEADS, LENGTH):
        products = [float(q[row, head, token] @ k[row, head, other]) for other in range(LENGTH)]
        scores[row, head, token] = np.array(products) * scaling
        chances[row, head, token, real[row]] = softmax(scores[row, head, token][real[row]])
    chances = rounding(chances if kept is None else chances * kept)
    context = np.zeros((ROWS, LENGTH, HEADS, SIZE))
    for row, head, token in np.ndindex(ROWS, HEADS, LENGTH):
        context[row, token, head] = sum(
            chances[row, head, token, other] * v[row, head, other] for other in range(LENGTH)
        )
    return context, scores


@each_rounding
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_equals_attention_in_float64(
    quantizer: ActivationQuantizer | None, rounding: Rounding, scaling: float | None
) -> None:
    query, key, value = heads(0), heads(1), heads(2)
    host = module(quantizer)
    recorded: list[Tensor] = []
    host.on_scores = recorded.append
    context, maps = attention(host, query, key, value, additive(REAL), scaling=scaling, dropout=0.5)
    expected, scores = written_out(query, key, value, REAL, rounding, SIZE**-0.5 if scaling is None else scaling)
    assert maps is None
    torch.testing.assert_close(context, torch.tensor(expected), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(recorded, [torch.tensor(scores)], rtol=1e-12, atol=1e-13)


def test_without_a_mask_every_key_is_used() -> None:
    query, key, value = heads(3), heads(4), heads(5)
    context, _ = attention(module(ActivationQuantizer(8, None)), query, key, value, None)
    expected, _ = written_out(query, key, value, np.ones_like(REAL), eight_bit, SIZE**-0.5)
    torch.testing.assert_close(context, torch.tensor(expected), rtol=1e-11, atol=1e-13)


@each_rounding
def test_probabilities_are_quantised_after_dropout(quantizer: ActivationQuantizer | None, rounding: Rounding) -> None:
    query, key, value = heads(6), heads(7), heads(8)
    torch.manual_seed(0)
    kept = dropout(torch.ones(ROWS, HEADS, LENGTH, LENGTH, dtype=torch.float64), 0.4, training=True).numpy()
    assert 0 < (kept == 0).mean() < 1
    torch.manual_seed(0)
    host = module(quantizer, training=True)
    context, _ = attention(host, query, key, value, additive(REAL), dropout=0.4)
    expected, _ = written_out(query, key, value, REAL, rounding, SIZE**-0.5, kept)
    torch.testing.assert_close(context, torch.tensor(expected), rtol=1e-11, atol=1e-13)


def test_the_clamp_reaches_queries_keys_and_values() -> None:
    query, key, value = heads(9), heads(10), heads(11)
    context, _ = attention(module(ActivationQuantizer(8, 1.5)), query, key, value, None)
    q, k, v = (torch.tensor(eight_bit(x.numpy(), 1.5)) for x in (query, key, value))
    expected, _ = written_out(q, k, v, np.ones_like(REAL), eight_bit, SIZE**-0.5)
    torch.testing.assert_close(context, torch.tensor(expected), rtol=1e-11, atol=1e-13)


def test_a_position_bias_is_part_of_the_scores() -> None:
    """It is added like a mask, but before the scores are captured, so the softmax of captured scores is the map."""
    query, key, value = heads(0), heads(1), heads(2)
    bias = heads(3) @ heads(4).transpose(2, 3)
    host = module(ActivationQuantizer(8, None))
    recorded: list[Tensor] = []
    host.on_scores = recorded.append
    as_mask, _ = attention(host, query, key, value, bias)
    as_bias, _ = attention(host, query, key, value, None, position_bias=bias)
    torch.testing.assert_close(as_bias, as_mask, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(recorded[1], recorded[0] + bias, rtol=1e-12, atol=1e-12)
    masked, _ = attention(host, query, key, value, additive(REAL), position_bias=bias)
    both, _ = attention(host, query, key, value, additive(REAL) + bias)
    torch.testing.assert_close(masked, both, rtol=1e-12, atol=1e-12)
