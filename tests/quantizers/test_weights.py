"""Every weight quantiser of the catalogue: its formula, the clamp, and the straight-through gradient."""

import numpy as np
import pytest
import torch

from kdqat_cli.names import LEVELS
from kdqat_cli.quantizers.codes import MATRIX, ROW, Grouping
from kdqat_cli.quantizers.weights import WEIGHTS, StraightThrough, WeightQuantizer
from tests.quantizers.reference import REFERENCES
from tests.recipes import quantization

GROUPINGS = (MATRIX, ROW)
each_quantizer = pytest.mark.parametrize("name", REFERENCES)
each_grouping = pytest.mark.parametrize("grouping", GROUPINGS)


def latent(seed: int = 0, rows: int = 7, columns: int = 19) -> torch.Tensor:
    """Weights, some of them beyond ±2.5."""
    values = torch.tensor(np.random.default_rng(seed).normal(0, 1.5, (rows, columns)), requires_grad=True)
    assert (values.abs() > 2.5).any()
    return values


def test_the_names_on_the_command_line_are_the_catalogue() -> None:
    assert tuple(LEVELS) == ("fp32", *WEIGHTS) == ("fp32", *REFERENCES, "uniform", "points")
    for bits in (1, 4, 8):
        for name in WEIGHTS:
            settings = quantization(weights=name, **({"bits": bits} if name in ("uniform", "points") else {}))
            quantizer = StraightThrough.of(settings).quantizer
            assert (quantizer.name, quantizer.levels) == (name, settings.levels)


def symmetric(name: str) -> WeightQuantizer:
    """A quantiser without other settings."""
    return StraightThrough.of(quantization(weights=name)).quantizer


@each_quantizer
@each_grouping
@pytest.mark.parametrize("clip", [None, 2.5, 0.3])
def test_it_equals_the_formula_forward_and_backward(name: str, grouping: Grouping, clip: float | None) -> None:
    weight = latent()
    values = weight.detach().numpy()
    clamped = values if clip is None else np.array([[min(max(w, -clip), clip) for w in row] for row in values])
    expected = torch.tensor(REFERENCES[name](clamped, grouping == ROW))
    quantizer = StraightThrough(symmetric(name), clip)
    quantized = quantizer(weight, grouping)
    torch.testing.assert_close(quantized.detach(), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(quantizer.codes(weight.detach(), grouping).value(), expected, rtol=1e-13, atol=0)

    upstream = torch.tensor(np.random.default_rng(1).normal(0, 1, values.shape))
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    slopes = [
        [g if clip is None or abs(w) < clip else 0.0 for w, g in zip(*rows, strict=True)]
        for rows in zip(values, upstream.tolist(), strict=True)
    ]
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.tensor(slopes, dtype=torch.float64))
    assert np.array_equal(weight.detach().numpy(), values), "the latent weight is unchanged"


@each_quantizer
@each_grouping
def test_no_gradient_at_the_clamp_itself(name: str, grouping: Grouping) -> None:
    weight = torch.tensor([[3.0, -2.5, 2.5, 0.1], [-2.499, 1.0, -7.0, 0.0]], requires_grad=True)
    upstream = torch.arange(1.0, 9.0).view(2, 4)
    StraightThrough(symmetric(name), 2.5)(weight, grouping).backward(upstream)  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream * torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]]))


@each_quantizer
@each_grouping
@pytest.mark.parametrize("clip", [None, 2.5])
def test_zeros_stay_zero_and_learn(name: str, grouping: Grouping, clip: float | None) -> None:
    weight = torch.zeros(3, 4, requires_grad=True)
    quantized = StraightThrough(symmetric(name), clip)(weight, grouping)
    assert torch.equal(quantized, torch.zeros(3, 4))
    upstream = torch.arange(12.0).view(3, 4)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


def test_each_name_is_a_different_quantiser() -> None:
    weight = latent().detach()
    values = [StraightThrough(symmetric(name), None)(weight, MATRIX).flatten().tolist() for name in REFERENCES]
    counts = [len(set(of_one)) for of_one in values]
    assert counts[0] == 3
    assert 3 < counts[1] <= 15 < counts[2] <= 255
