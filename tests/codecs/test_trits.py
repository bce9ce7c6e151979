"""Five codes per byte: worked examples, round trips of every size, and invalid bytes."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdqat_cli.codecs.trits import LARGEST_BYTE, pack, packed_size, unpack

codes_of_any_shape = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=13), elements=st.integers(-1, 1)
)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], []),
        ([-1, -1, -1, -1, -1], [0]),
        ([0, 0, 0, 0, 0], [121]),  # 1 + 3 + 9 + 27 + 81
        ([1, 1, 1, 1, 1], [242]),  # 2 · 121
        ([1, 0, -1, 0, 1], [194]),  # 2 + 1·3 + 0·9 + 1·27 + 2·81
        ([-1, 1, 0, -1, -1], [15]),  # 0 + 2·3 + 1·9
        ([1], [2]),
        ([0, 1], [7]),  # 1 + 2·3
        ([1, 1, 1, 1], [80]),  # 2 · (1 + 3 + 9 + 27)
        ([-1, -1, -1, -1, -1, 1], [0, 2]),
        ([1, 0, -1, 0, 1, -1, 1, 0, -1, -1, 0], [194, 15, 1]),
    ],
)
def test_worked_bytes(codes: list[int], expected: list[int]) -> None:
    packed = pack(np.array(codes, dtype=np.int8))
    assert packed.dtype == np.uint8
    assert packed.tolist() == expected
    assert unpack(packed, len(codes)).tolist() == codes


@given(codes_of_any_shape)
@settings(deadline=None, max_examples=150)
def test_round_trip(codes: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> None:
    packed = pack(codes)
    assert packed.size == packed_size(codes.size) == (codes.size + 4) // 5
    back = unpack(packed, codes.size)
    assert back.dtype == np.int8
    assert back.reshape(codes.shape).tolist() == codes.tolist()


@pytest.mark.parametrize("count", range(17))
def test_round_trip_at_every_remainder(count: int) -> None:
    codes = (np.arange(count) * 7 % 3 - 1).astype(np.int8)
    assert unpack(pack(codes), count).tolist() == codes.tolist()


def test_a_transposed_matrix_is_packed_row_by_row() -> None:
    codes = np.array([[1, 0, -1], [0, 1, 1]], dtype=np.int8)
    assert pack(codes.T).tolist() == pack(np.array([1, 0, 0, 1, -1, 1], dtype=np.int8)).tolist()


def test_bytes_and_codes_are_one_to_one() -> None:
    every = np.arange(LARGEST_BYTE + 1, dtype=np.uint8)
    codes = unpack(every, 5 * every.size).reshape(-1, 5)
    assert len({tuple(row) for row in codes.tolist()}) == 243 == every.size
    assert pack(codes).tolist() == every.tolist()


@pytest.mark.parametrize("value", range(243, 256))
def test_an_invalid_byte_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="above 242"):
        unpack(np.array([0, value, 0], dtype=np.uint8), 15)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 0), (1, 6), (2, 5), (2, 11), (3, 10)])
def test_a_length_that_does_not_fit_is_refused(size: int, count: int) -> None:
    with pytest.raises(ValueError, match="exactly"):
        unpack(np.zeros(size, dtype=np.uint8), count)


@pytest.mark.slow
def test_hundreds_of_megabytes_of_fp32_weights_a_second() -> None:
    codes = np.random.default_rng(0).integers(-1, 2, 50_000_000, dtype=np.int8)
    megabytes = 4 * codes.size / 1e6
    start = time.perf_counter()
    packed = pack(codes)
    middle = time.perf_counter()
    back = unpack(packed, codes.size)
    end = time.perf_counter()
    assert np.array_equal(back, codes)
    assert megabytes / (middle - start) > 200
    assert megabytes / (end - middle) > 200
