"""Ternary weights: by hand, against float64 loops, and what the module's docstring guarantees."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdqat_cli.quantizers.ternary import Granularity, join, split, ternarize
from kdqat_cli.quantizers.weights import WeightQuantizer
from tests.quantizers.reference import ternary, threshold_is_clear

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
Spread = Literal["normal", "heavy", "mostly zero"]


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
    # mean|w| = 2.2 / 6, Δ = 0.2567; above it 0.9, 0.4 and 0.6: α = 1.9 / 3.
    alpha = 1.9 / 3
    expected = torch.tensor([[alpha, 0, alpha], [-alpha, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(ternarize(weight, "matrix"), expected, rtol=1e-15, atol=0)
    codes, scales = split(ternarize(weight, "matrix"), "matrix")
    assert codes.tolist() == [[1, 0, 1], [-1, 0, 0]]
    assert scales.tolist() == pytest.approx([alpha], rel=1e-15)


def test_rows_by_hand() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [-0.6, 0.0, 0.2]], dtype=torch.float64)
    # Δ = 0.7 · 1.4 / 3 = 0.327, α = (0.9 + 0.4) / 2; Δ = 0.7 · 0.8 / 3 = 0.187, α = (0.6 + 0.2) / 2.
    expected = torch.tensor([[0.65, 0, 0.65], [-0.4, 0, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(ternarize(weight, "row"), expected, rtol=1e-15, atol=0)


def test_a_weight_at_the_threshold_is_dropped() -> None:
    # mean|w| = 1, so Δ = 0.7 itself: |w| > Δ is strict.
    weight = torch.tensor([[-0.7, 1.3]], dtype=torch.float64)
    assert ternarize(weight, "matrix").tolist() == [[0.0, 1.3]]
    weight = torch.tensor([[-0.700001, 1.299999]], dtype=torch.float64)
    assert ternarize(weight, "matrix").tolist() == [[-1.0, 1.0]]


@given(weights, st.sampled_from(GRANULARITIES))
@settings(deadline=None, max_examples=60)
def test_equals_an_independent_float64_computation(weight: torch.Tensor, granularity: Granularity) -> None:
    rowwise = granularity == "row"
    assume(threshold_is_clear(weight.numpy(), rowwise))
    expected = torch.tensor(ternary(weight.numpy(), rowwise))
    torch.testing.assert_close(ternarize(weight, granularity), expected, rtol=1e-13, atol=0)
    single = ternarize(weight.float(), granularity)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=0)


@given(weights, st.sampled_from(GRANULARITIES), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=60)
def test_splits_and_joins_bit_for_bit(weight: torch.Tensor, granularity: Granularity, dtype: torch.dtype) -> None:
    once = ternarize(weight.to(dtype), granularity)
    codes, scales = split(once, granularity)
    assert codes.dtype == torch.int8
    assert set(codes.flatten().tolist()) <= {-1, 0, 1}
    assert scales.shape == ((len(weight),) if granularity == "row" else (1,))
    assert join(codes, scales).numpy().tobytes() == once.numpy().tobytes()


@given(weights, st.sampled_from(GRANULARITIES))
@settings(deadline=None, max_examples=60)
def test_is_idempotent_at_one_granularity(weight: torch.Tensor, granularity: Granularity) -> None:
    once = ternarize(weight.float(), granularity)
    twice = ternarize(once, granularity)
    assert torch.equal(split(twice, granularity)[0], split(once, granularity)[0])
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=0)


def test_rows_quantised_again_as_a_matrix_are_no_longer_the_same() -> None:
    """Spec, section 2: a row-wise table must not go through one scale a matrix."""
    weight = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    weight *= torch.linspace(0.7, 1.3, 400)[:, None]  # rows differ in size, as those of a real table
    rows = ternarize(weight, "row")
    again = ternarize(rows, "matrix")
    assert 0.05 < ((again - rows).norm() / rows.norm()).item() < 0.3
    with pytest.raises(ValueError, match="one scale a matrix"):
        split(rows, "matrix")


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_split_refuses_what_is_not_ternary(granularity: Granularity) -> None:
    with pytest.raises(ValueError, match=f"one scale a {granularity}"):
        split(torch.tensor([[0.5, -0.5, 0.25]]), granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("clip", [None, 2.5])
def test_a_matrix_of_zeros_stays_zero(granularity: Granularity, clip: float | None) -> None:
    weight = torch.zeros(3, 4, requires_grad=True)
    quantized = WeightQuantizer("ternary", clip)(weight, granularity)
    upstream = torch.arange(12.0).view(3, 4)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    assert torch.equal(quantized, torch.zeros(3, 4))
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)
    codes, scales = split(quantized.detach(), granularity)
    assert not codes.any()
    assert not scales.any()


def test_a_row_of_zeros_leaves_the_others_alone() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [0.0, -0.0, 0.0], [-0.6, 0.0, 0.2]], dtype=torch.float64)
    quantized = ternarize(weight, "row")
    torch.testing.assert_close(quantized, torch.tensor(ternary(weight.numpy(), True)), rtol=1e-15, atol=0)
    assert not quantized[1].any()
    assert split(quantized, "row")[1][1] == 0


def test_gaussian_weights_give_the_spec_s_figures() -> None:
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    quantized = ternarize(weight, "matrix")
    shares = torch.stack([(quantized.sign() == sign).double().mean() for sign in (-1, 0, 1)])
    assert 1 - shares[1].item() == pytest.approx(0.577, abs=0.002)
    assert -(shares * shares.log2()).sum().item() == pytest.approx(1.56, abs=0.005)
    assert ((quantized - weight).square().sum() / weight.square().sum()).item() == pytest.approx(0.192, abs=0.001)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_clamp_comes_first_and_stops_the_gradient(granularity: Granularity) -> None:
    weight = torch.tensor([[3.0, -2.5, 2.5, 0.1], [-2.499, 1.0, -7.0, 0.0]], dtype=torch.float64, requires_grad=True)
    quantized = WeightQuantizer("ternary", 2.5)(weight, granularity)
    clamped = np.clip(weight.detach().numpy(), -2.5, 2.5)
    expected = torch.tensor(ternary(clamped, granularity == "row"))
    torch.testing.assert_close(quantized.detach(), expected, rtol=1e-14, atol=0)
    upstream = torch.arange(1.0, 9.0, dtype=torch.float64).view(2, 4)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    passes = torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]])
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream * passes)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_without_a_clamp_the_gradient_is_the_identity(granularity: Granularity) -> None:
    weight = (100 * random_weight(3, 5, 7, "heavy")).requires_grad_()
    upstream = random_weight(4, 5, 7)
    quantized = WeightQuantizer("ternary", None)(weight, granularity)
    quantized.backward(upstream)  # type: ignore[no-untyped-call]
    assert torch.equal(quantized, ternarize(weight.detach(), granularity))
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)
