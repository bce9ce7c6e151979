"""Codes of a weight: the groups that share a scale, the value, and codes derived from floats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes, Grouping, recovered
from kdqat_cli.quantizers.symmetric import Symmetric
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.weights import WeightQuantizer

WEIGHT = torch.arange(10.0).view(2, 5)


def bucket(size: int) -> Grouping:
    return Grouping("bucket", size)


@pytest.mark.parametrize(
    ("grouping", "groups"),
    [
        (MATRIX, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
        (ROW, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        (bucket(4), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]),
        (bucket(5), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        (bucket(11), [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ],
    ids=str,
)
def test_groups_by_hand(grouping: Grouping, groups: list[list[float]]) -> None:
    """The last bucket is padded with the last value; a weight smaller than one bucket is one shorter bucket."""
    split = grouping.split(WEIGHT)
    assert split.tolist() == groups
    assert grouping.count(WEIGHT.shape) == len(groups)
    assert torch.equal(grouping.join(split, WEIGHT.shape), WEIGHT)


def test_the_value_by_hand() -> None:
    levels = torch.tensor([[-1, 0, 1], [2, -3, 0]], dtype=torch.int8)
    for grouping, scales, value in (
        (MATRIX, [0.5], [[-0.5, 0, 0.5], [1, -1.5, 0]]),
        (ROW, [0.5, 2], [[-0.5, 0, 0.5], [4, -6, 0]]),
        (bucket(4), [0.5, 2], [[-0.5, 0, 0.5], [1, -6, 0]]),
    ):
        codes = Codes(levels, torch.tensor(scales), grouping)
        assert codes.value().tolist() == value
        assert codes.value().dtype == torch.float32
    assert not torch.signbit(Codes(levels, torch.tensor([0.5]), MATRIX).value()[0, 1])


def test_the_value_with_offsets_and_points_by_hand() -> None:
    levels = torch.tensor([[0, 1, 3], [2, 3, 0]], dtype=torch.uint8)
    offsets, points = torch.tensor([-1.0, 10]), torch.tensor([0, 0.25, 0.5, 1])
    scales = torch.tensor([0.5, 2])
    assert Codes(levels, scales, bucket(4), offsets).value().tolist() == [[-1, -0.5, 0.5], [0, 16, 10]]
    assert Codes(levels, scales, bucket(4), offsets, points).value().tolist() == [[-1, -0.875, -0.5], [-0.75, 12, 10]]
    assert Codes(levels, scales, bucket(4), points=points).value().tolist() == [[0, 0.125, 0.5], [0.25, 2, 0]]
    assert Codes(levels, scales, ROW, offsets, points).value().dtype == torch.float32
    largest = Codes(torch.full((3,), 255, dtype=torch.uint8), torch.ones(1), MATRIX, points=torch.arange(256.0))
    assert largest.value().tolist() == [255] * 3


def test_only_multiples_of_a_scale_can_be_multiplied_as_levels() -> None:
    levels, one = torch.zeros(3, dtype=torch.int8), torch.ones(1)
    assert Codes(levels, one, MATRIX).multiplies
    assert not Codes(levels, one, MATRIX, one).multiplies
    assert not Codes(levels, one, MATRIX, points=one).multiplies


def test_offsets_and_points_that_do_not_fit_are_refused() -> None:
    levels, scales = WEIGHT.to(torch.int8), torch.ones(3)
    with pytest.raises(ValueError, match=r"\(2,\) offsets do not fit \(2, 5\) levels with one offset per bucket of 4"):
        Codes(levels, scales, bucket(4), torch.ones(2))
    for points in (torch.ones(2, 2), torch.ones(0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="not a list of numbers"):
            Codes(levels, scales, bucket(4), points=points)


def test_the_rows_of_a_convolution_are_its_filters() -> None:
    levels = torch.ones(4, 3, 2, 2, dtype=torch.int8)
    value = Codes(levels, torch.arange(4.0), ROW).value()
    assert torch.equal(value, torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) scales do not fit \(2, 5\) levels with one scale per bucket of 4"):
        Codes(WEIGHT.to(torch.int8), torch.ones(2), bucket(4))
    for unit, size in (("bucket", None), ("bucket", 0), ("row", 4)):
        with pytest.raises(ValueError, match="of"):
            Grouping(unit, size)  # type: ignore[arg-type]


QUANTIZERS: dict[str, WeightQuantizer] = {"ternary": Ternary(), "int4": Symmetric(4), "int8": Symmetric(8)}


@given(st.sampled_from(sorted(QUANTIZERS)), st.sampled_from([MATRIX, ROW, bucket(7)]), st.integers(0, 10**6))
@settings(deadline=None, max_examples=100)
def test_codes_are_derived_from_floats(name: str, grouping: Grouping, seed: int) -> None:
    """A folder without codes is read in this way: the floats are equal bit for bit, and so are the levels."""
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(seed)) * 0.04
    weight[3] = 0
    quantizer = QUANTIZERS[name]
    codes = quantizer.codes(weight, grouping)
    back = recovered(codes.value(), grouping, max(quantizer.levels))
    assert torch.equal(back.levels, codes.levels)
    assert back.value().numpy().tobytes() == codes.value().numpy().tobytes()
    if name == "ternary":
        assert torch.equal(back.scales, codes.scales)


def test_floats_that_are_not_codes_are_refused() -> None:
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    for floats, grouping, most in (
        (weight, MATRIX, 127),
        (Symmetric(4).codes(weight, MATRIX).value(), MATRIX, 1),
        (Ternary().codes(weight, ROW).value(), MATRIX, 1),
        (Ternary().codes(weight, MATRIX).value().where(weight < 2, torch.nan), MATRIX, 1),
    ):
        with pytest.raises(ValueError, match=f"no multiples of one scale per {grouping}"):
            recovered(floats, grouping, most)
