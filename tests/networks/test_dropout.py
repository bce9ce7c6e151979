"""Dropout with fast random bits: probability, independence, gradient, and its place in a model."""

import pytest
import torch
from torch import nn

from kdqat_cli.networks.dropout import FastDropout, dropout
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import load_recipe
from tests.architectures import tiny

COUNT = 1_000_003  # not a multiple of the four values that share a draw


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_drops_with_its_probability_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(COUNT), p, training=True)
    dropped = (out == 0).double()
    deviation = (p * (1 - p) / COUNT) ** 0.5
    assert abs(dropped.mean().item() - p) < 4 * deviation + 2**-17
    assert sorted(set(out.tolist())) == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert out.double().mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))


def test_each_value_is_dropped_independently_of_its_neighbours() -> None:
    """Also of neighbours whose bits come from the same draw."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(COUNT), 0.3, training=True) == 0).double()
    for distance in (1, 2, 3, 4, 5, 128):
        both = (dropped[:-distance] * dropped[distance:]).mean().item()
        assert both == pytest.approx(0.09, abs=5 * (0.09 * 0.91 / COUNT) ** 0.5)
    for place in range(4):
        assert dropped[place::4].mean().item() == pytest.approx(0.3, abs=0.005)


def test_one_seed_gives_one_mask() -> None:
    values = torch.randn(7, 9)
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(dropout(values, 0.5, training=True))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_the_gradient_equals_the_mask() -> None:
    values = torch.randn(50, 3).t().requires_grad_()
    out = dropout(values, 0.4, training=True)
    out.backward(torch.full_like(out, 2.0))  # type: ignore[no-untyped-call]
    assert values.grad is not None
    torch.testing.assert_close(out.detach(), values.detach() * values.grad / 2)


@pytest.mark.parametrize(("p", "training", "factor"), [(0.3, False, 1.0), (0.0, True, 1.0), (1.0, True, 0.0)])
def test_no_dropout_in_eval_mode_and_extreme_probabilities(p: float, training: bool, factor: float) -> None:
    values = torch.randn(4, 4)
    torch.testing.assert_close(dropout(values, p, training), values * factor)


def test_a_student_uses_it() -> None:
    model = tiny("bert").train()
    quantize_model(model, load_recipe("clean").quantization)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
    assert kinds == {FastDropout}
