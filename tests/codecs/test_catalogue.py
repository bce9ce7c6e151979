"""Fixed bits, the choice of a codec, and the common properties of all codecs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kdqat_cli.codecs import fixed
from kdqat_cli.codecs.catalogue import CODECS, decode, smallest

each_codec = pytest.mark.parametrize("codec", CODECS)


def levels_below(bound: int) -> st.SearchStrategy[np.typing.NDArray[np.uint8]]:
    return arrays.arrays(np.uint8, st.integers(1, 300), elements=st.integers(0, bound - 1))


def test_three_bits_by_hand() -> None:
    stream = fixed.encode(np.array([[1, 2], [7, 0]], np.uint8))
    assert stream.tolist() == [3, 0b001_010_11, 0b1_000_0000]
    assert fixed.decode(stream, 4).tolist() == [1, 2, 7, 0]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 9, 2**17 - 1, 2**17, 2**17 + 5])
def test_every_number_of_bits(bits: int, count: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint8)
    levels[0] = 2**bits - 1
    stream = fixed.encode(levels)
    assert stream.size == fixed.size(count, bits) == 1 + (count * bits + 7) // 8
    assert np.array_equal(fixed.decode(stream, count), levels)


@each_codec
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_encoding_then_decoding_gives_the_same(codec: str, data: st.DataObject) -> None:
    levels = data.draw(levels_below(3 if codec == "trits" else 256))
    assert np.array_equal(decode(codec, CODECS[codec].encode(levels), levels.size), levels)


@given(st.sampled_from([1, 2, 3, 4, 16, 256]).flatmap(levels_below))
@settings(deadline=None, max_examples=100)
def test_smallest_gives_the_smallest_of_all_codecs(levels: np.typing.NDArray[np.uint8]) -> None:
    name, stream = smallest(levels)
    sizes = {other: CODECS[other].encode(levels).size for other in CODECS if other != "trits" or levels.max() < 3}
    assert stream.size == sizes[name] == min(sizes.values())
    assert np.array_equal(decode(name, stream, levels.size), levels)


def test_which_codec_is_the_smallest() -> None:
    draw = np.random.default_rng(0)
    even = draw.integers(0, 3, 20_000).astype(np.uint8)
    skewed = draw.choice(3, 20_000, p=[0.1, 0.8, 0.1]).astype(np.uint8)
    assert smallest(even)[0] == "trits"
    assert smallest(skewed)[0] == "huffman"
    assert smallest(draw.integers(0, 16, 20_000).astype(np.uint8))[0] == "fixed"
    assert smallest(draw.binomial(15, 0.5, 20_000).astype(np.uint8))[0] == "huffman"


@each_codec
def test_mutated_streams_give_levels_or_an_error(codec: str) -> None:
    draw = np.random.default_rng(1)
    for number in range(500):
        levels = draw.integers(0, 3, int(draw.integers(1, 200))).astype(np.uint8)
        stream = CODECS[codec].encode(levels).copy()
        stream[int(draw.integers(0, stream.size))] = int(draw.integers(0, 256))
        if number % 5 == 0:
            stream = stream[: int(draw.integers(0, stream.size))]
        try:
            assert decode(codec, stream, levels.size).shape == levels.shape
        except ValueError:
            continue


@each_codec
@pytest.mark.parametrize("count", [0, 3, 20, 10**6, 2**62])
def test_a_wrong_number_of_levels_is_refused(codec: str, count: int) -> None:
    stream = CODECS[codec].encode(np.array([0, 1, 2, 2, 1, 0, 1], np.uint8))
    with pytest.raises(ValueError, match=r"cannot hold|the blocks have|after the last level"):
        decode(codec, stream, count)


def test_bytes_after_the_last_level_are_refused() -> None:
    levels = np.array([0, 1, 2, 1, 1, 0], np.uint8)
    for codec in ("trits", "fixed"):
        stream = CODECS[codec].encode(levels)
        stream[-1] |= 1 if codec == "fixed" else 0
        stream[-1] += 3 if codec == "trits" else 0
        with pytest.raises(ValueError, match="after the last level are not zero"):
            decode(codec, stream, 6)


@pytest.mark.parametrize("bits", [0, 9, 255])
def test_an_invalid_number_of_bits_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"levels of {bits} bits"):
        fixed.decode(np.array([bits, 1, 1], np.uint8), 2)


def test_an_unknown_codec_is_refused() -> None:
    unknown: list[object] = ["zip", None, 3, []]
    for codec in unknown:
        with pytest.raises(ValueError, match="there is no codec"):
            decode(codec, np.zeros(3, np.uint8), 2)
    with pytest.raises(ValueError, match="a trit is at most 2"):
        CODECS["trits"].encode(np.array([3], np.uint8))
