"""4- and 8-bit weights: by hand, against float64 loops, and the guarantees of the module's docstring."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdqat_cli.quantizers.codes import MATRIX, ROW, Grouping
from kdqat_cli.quantizers.symmetric import Symmetric
from kdqat_cli.quantizers.ternary import Ternary
from tests.quantizers.reference import uniform

GROUPINGS = (MATRIX, ROW)
WEIGHT = torch.tensor([[0.7, -0.3, 0.14], [0.06, 0.0, -0.66]], dtype=torch.float64)


def round_uniform(weight: torch.Tensor, grouping: Grouping, bits: int) -> torch.Tensor:
    return Symmetric(bits).codes(weight, grouping).value()


def random_weight(seed: int, rows: int, columns: int, size: float = 0.04) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_t(3, (rows, columns)) * size)


weights = st.builds(
    random_weight,
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([1e-30, 0.04, 60.0]),
)


def test_four_bits_by_hand() -> None:
    # One step per matrix: 0.7 / 7 = 0.1.
    expected = torch.tensor([[0.7, -0.3, 0.1], [0.1, 0.0, -0.7]], dtype=torch.float64)
    torch.testing.assert_close(round_uniform(WEIGHT, MATRIX, 4), expected, rtol=1e-14, atol=0)
    # One step per row: 0.1, and 0.66 / 7, so 0.06 is 0.64 steps.
    expected = torch.tensor([[0.7, -0.3, 0.1], [0.66 / 7, 0.0, -0.66]], dtype=torch.float64)
    torch.testing.assert_close(round_uniform(WEIGHT, ROW, 4), expected, rtol=1e-14, atol=0)


def test_eight_bits_by_hand() -> None:
    # One step per matrix: 1.27 / 127 = 0.01; one per row: 0.01, and 0.508 / 127 = 0.004.
    weight = torch.tensor([[1.27, 0.5, -0.304], [0.0049, -0.0051, 0.508]], dtype=torch.float64)
    expected = torch.tensor([[1.27, 0.5, -0.30], [0.0, -0.01, 0.51]], dtype=torch.float64)
    torch.testing.assert_close(round_uniform(weight, MATRIX, 8), expected, rtol=1e-14, atol=0)
    expected = torch.tensor([[1.27, 0.5, -0.30], [0.004, -0.004, 0.508]], dtype=torch.float64)
    torch.testing.assert_close(round_uniform(weight, ROW, 8), expected, rtol=1e-14, atol=0)


@given(weights, st.sampled_from(GROUPINGS), st.sampled_from([4, 8]))
@settings(deadline=None, max_examples=80)
def test_equals_an_independent_float64_computation(weight: torch.Tensor, grouping: Grouping, bits: int) -> None:
    expected = torch.tensor(uniform(weight.numpy(), grouping == ROW, bits))
    torch.testing.assert_close(round_uniform(weight, grouping, bits), expected, rtol=1e-13, atol=0)


@given(weights, st.sampled_from(GROUPINGS), st.sampled_from([4, 8]))
@settings(deadline=None, max_examples=80)
def test_the_guarantees_of_the_docstring(weight: torch.Tensor, grouping: Grouping, bits: int) -> None:
    """In FP32: an error of at most half a step, 2^bits - 1 values, and the largest weight exact."""
    single = weight.float()
    rounded = round_uniform(single, grouping, bits)
    assert rounded.dtype == torch.float32
    levels = 2 ** (bits - 1) - 1
    for values, group in zip(*((single, rounded) if grouping == ROW else (single[None], rounded[None])), strict=True):
        step = values.abs().max() / levels
        assert ((group - values).abs() <= step * (0.5 + 1e-4)).all()
        assert len(set(group.flatten().tolist())) <= 2 * levels + 1
        assert (group / step - (group / step).round()).abs().max() < 1e-4
        largest = values.abs().argmax()
        torch.testing.assert_close(group.flatten()[largest], values.flatten()[largest], rtol=1e-6, atol=0)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize(("bits", "count"), [(4, 15), (8, 255)])
def test_every_level_is_used(grouping: Grouping, bits: int, count: int) -> None:
    weight = torch.linspace(-1, 1, 2001, dtype=torch.float64)[None]
    rounded = round_uniform(weight, grouping, bits)
    assert len(set(rounded.flatten().tolist())) == count


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zero(grouping: Grouping, bits: int) -> None:
    assert torch.equal(round_uniform(torch.zeros(3, 4), grouping, bits), torch.zeros(3, 4))
    weight = WEIGHT.clone()
    weight[0] = 0
    rounded = round_uniform(weight, grouping, bits)
    assert not rounded[0].any()
    torch.testing.assert_close(rounded[1:], round_uniform(weight[1:], grouping, bits), rtol=0, atol=0)


def test_the_weight_is_not_changed() -> None:
    before = WEIGHT.clone()
    round_uniform(WEIGHT, MATRIX, 4)
    round_uniform(WEIGHT, ROW, 8)
    assert torch.equal(WEIGHT, before)


def test_rows_have_their_own_scales_but_a_matrix_has_one() -> None:
    """The effect of a row with large values on the others."""
    louder = WEIGHT.clone()
    louder[0] *= 100
    assert torch.equal(round_uniform(louder, ROW, 4)[1], round_uniform(WEIGHT, ROW, 4)[1])
    assert not round_uniform(louder, MATRIX, 4)[1].any(), "less than half a step of 10"


def test_more_bits_are_closer() -> None:
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    quantizers = (Ternary(), Symmetric(4), Symmetric(8))
    rounded = [quantizer.codes(weight, MATRIX).value() for quantizer in quantizers]
    errors = [((x - weight).square().sum() / weight.square().sum()).item() for x in rounded]
    # Uniform noise of one step has the variance s² / 12; the largest of 90,000 Gaussian weights is about 4.5 σ.
    expected = [((weight.abs().max() / levels).square() / 12 / weight.square().mean()).item() for levels in (7, 127)]
    assert errors[1:] == pytest.approx(expected, rel=0.05)
    assert errors[0] > 4 * errors[1] > 4 * errors[2]
