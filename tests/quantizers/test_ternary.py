"""Ternary weights: by hand, against float64 loops, and the guarantees of the module's docstring."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdqat_cli.quantizers.codes import MATRIX, ROW, Grouping
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.weights import StraightThrough
from tests.quantizers.reference import ternary, threshold_is_clear

GROUPINGS = (MATRIX, ROW)
Spread = Literal["normal", "heavy", "mostly zero"]


def ternarize(weight: torch.Tensor, grouping: Grouping) -> torch.Tensor:
    return Ternary().codes(weight, grouping).value()


def random_weight(seed: int, rows: int, columns: int, spread: Spread = "normal") -> torch.Tensor:
    draw = np.random.default_rng(seed)
    weight = draw.normal(0.0, 0.04, (rows, columns))
    if spread == "heavy":
        weight = draw.standard_t(2, (rows, columns))
    elif spread == "mostly zero":
        weight *= draw.random((rows, columns)) < 0.2
    return torch.tensor(weight)


weights = st.builds(
    random_weight, st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 40), st.sampled_from(get_args(Spread))
)


def test_a_matrix_by_hand() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [-0.6, 0.0, 0.2]], dtype=torch.float64)
    # mean|w| = 2.2 / 6, Δ = 0.2567; 0.9, 0.4 and 0.6 are above it: α = 1.9 / 3.
    alpha = 1.9 / 3
    expected = torch.tensor([[alpha, 0, alpha], [-alpha, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(ternarize(weight, MATRIX), expected, rtol=1e-15, atol=0)
    codes = Ternary().codes(weight, MATRIX)
    assert codes.levels.tolist() == [[1, 0, 1], [-1, 0, 0]]
    assert codes.scales.tolist() == pytest.approx([alpha], rel=1e-15)


def test_rows_by_hand() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [-0.6, 0.0, 0.2]], dtype=torch.float64)
    # Δ = 0.7 · 1.4 / 3 = 0.327, α = (0.9 + 0.4) / 2; Δ = 0.7 · 0.8 / 3 = 0.187, α = (0.6 + 0.2) / 2.
    expected = torch.tensor([[0.65, 0, 0.65], [-0.4, 0, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(ternarize(weight, ROW), expected, rtol=1e-15, atol=0)


def test_a_weight_at_the_threshold_is_dropped() -> None:
    # mean|w| = 1, so Δ = 0.7; the comparison |w| > Δ is strict.
    weight = torch.tensor([[-0.7, 1.3]], dtype=torch.float64)
    assert ternarize(weight, MATRIX).tolist() == [[0.0, 1.3]]
    weight = torch.tensor([[-0.700001, 1.299999]], dtype=torch.float64)
    assert ternarize(weight, MATRIX).tolist() == [[-1.0, 1.0]]


@given(weights, st.sampled_from(GROUPINGS))
@settings(deadline=None, max_examples=60)
def test_equals_an_independent_float64_computation(weight: torch.Tensor, grouping: Grouping) -> None:
    rowwise = grouping == ROW
    assume(threshold_is_clear(weight.numpy(), rowwise))
    expected = torch.tensor(ternary(weight.numpy(), rowwise))
    torch.testing.assert_close(ternarize(weight, grouping), expected, rtol=1e-13, atol=0)
    single = ternarize(weight.float(), grouping)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=0)


@given(weights, st.sampled_from(GROUPINGS), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=60)
def test_levels_are_trits_with_one_scale_per_group(
    weight: torch.Tensor, grouping: Grouping, dtype: torch.dtype
) -> None:
    codes = Ternary().codes(weight.to(dtype), grouping)
    assert codes.levels.dtype == torch.int8
    assert set(codes.levels.flatten().tolist()) <= {-1, 0, 1}
    assert codes.scales.shape == ((len(weight),) if grouping == ROW else (1,))
    assert codes.scales.dtype == dtype


@given(weights, st.sampled_from(GROUPINGS))
@settings(deadline=None, max_examples=60)
def test_it_is_idempotent_with_the_same_grouping(weight: torch.Tensor, grouping: Grouping) -> None:
    once = Ternary().codes(weight.float(), grouping)
    twice = Ternary().codes(once.value(), grouping)
    assert torch.equal(twice.levels, once.levels)
    torch.testing.assert_close(twice.scales, once.scales, rtol=1e-6, atol=0)


def test_rows_quantised_again_as_a_matrix_change() -> None:
    """Spec, section 2: a table with a scale per row must not be quantised with one scale per matrix."""
    weight = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    weight *= torch.linspace(0.7, 1.3, 400)[:, None]  # rows differ in size, like those of a real table
    rows = ternarize(weight, ROW)
    again = ternarize(rows, MATRIX)
    assert 0.05 < ((again - rows).norm() / rows.norm()).item() < 0.3


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("clip", [None, 2.5])
def test_a_matrix_of_zeros_stays_zero(grouping: Grouping, clip: float | None) -> None:
    weight = torch.zeros(3, 4, requires_grad=True)
    quantized = StraightThrough(Ternary(), clip)(weight, grouping)
    upstream = torch.arange(12.0).view(3, 4)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    assert torch.equal(quantized, torch.zeros(3, 4))
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)
    codes = Ternary().codes(weight.detach(), grouping)
    assert not codes.levels.any()
    assert not codes.scales.any()


def test_a_row_of_zeros_does_not_change_the_others() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [0.0, -0.0, 0.0], [-0.6, 0.0, 0.2]], dtype=torch.float64)
    quantized = ternarize(weight, ROW)
    torch.testing.assert_close(quantized, torch.tensor(ternary(weight.numpy(), True)), rtol=1e-15, atol=0)
    assert not quantized[1].any()
    assert Ternary().codes(weight, ROW).scales[1] == 0


def test_gaussian_weights_give_the_figures_of_the_spec() -> None:
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    quantized = ternarize(weight, MATRIX)
    shares = torch.stack([(quantized.sign() == sign).double().mean() for sign in (-1, 0, 1)])
    assert 1 - shares[1].item() == pytest.approx(0.577, abs=0.002)
    assert -(shares * shares.log2()).sum().item() == pytest.approx(1.56, abs=0.005)
    assert ((quantized - weight).square().sum() / weight.square().sum()).item() == pytest.approx(0.192, abs=0.001)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_clamp_is_applied_first_and_stops_the_gradient(grouping: Grouping) -> None:
    weight = torch.tensor([[3.0, -2.5, 2.5, 0.1], [-2.499, 1.0, -7.0, 0.0]], dtype=torch.float64, requires_grad=True)
    quantized = StraightThrough(Ternary(), 2.5)(weight, grouping)
    clamped = np.clip(weight.detach().numpy(), -2.5, 2.5)
    expected = torch.tensor(ternary(clamped, grouping == ROW))
    torch.testing.assert_close(quantized.detach(), expected, rtol=1e-14, atol=0)
    upstream = torch.arange(1.0, 9.0, dtype=torch.float64).view(2, 4)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    passes = torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]])
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream * passes)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_without_a_clamp_the_gradient_is_the_identity(grouping: Grouping) -> None:
    weight = (100 * random_weight(3, 5, 7, "heavy")).requires_grad_()
    upstream = random_weight(4, 5, 7)
    quantized = StraightThrough(Ternary(), None)(weight, grouping)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    assert torch.equal(quantized, ternarize(weight.detach(), grouping))
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)
