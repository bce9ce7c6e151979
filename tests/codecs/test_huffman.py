"""Huffman codes: worked examples, optimal lengths, both decoders; each damaged stream raises a ValueError."""

import hashlib
import heapq
import itertools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdqat_cli.codecs import huffman
from kdqat_cli.codecs.huffman import BLOCK, LONGEST, MOST_ALIKE, code_lengths, decode, encode
from kdqat_cli.native.library import library

DECODERS = ["native", "numpy"] if library() is not None else ["numpy"]
Levels = NDArray[np.uint8]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each decoder in turn."""
    if request.param == "numpy":
        monkeypatch.setattr(huffman, "library", lambda: None)
    name: str = request.param
    return name


def drawn(count: int, weights: list[float], seed: int = 0) -> Levels:
    share = np.array(weights) / sum(weights)
    return np.random.default_rng(seed).choice(len(weights), count, p=share).astype(np.uint8)


def test_a_stream_by_hand(decoder: str) -> None:
    # Level 0 five times, 1 and 2 once, 3 never, 4 twice: lengths 1, 3, 3, 0, 2; codes 0, 110, 111, -, 10.
    levels = np.array([0, 0, 4, 1, 0, 0, 2, 4, 0], np.uint8)
    bits = "0 0 10 110 0 0 111 10 0".replace(" ", "")
    book = [4, 0x13, 0x30, 0x20]
    payload = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert encode(levels).tolist() == [*book, len(payload), 0, *payload]
    assert decode(encode(levels), 9).tolist() == levels.tolist()


def test_streams_stay_as_files_have_them(decoder: str) -> None:
    """Also which of several equally frequent levels gets the longer code."""
    places = np.arange(20_000)
    levels = (places**2 % 251 % np.array([7, 60, 200])[places % 3]).astype(np.uint8)
    expected = "8dd8500b4e5909a092d2cd2ad667397f24a4483fe55c535619141c94a0ff30e5"
    assert hashlib.sha256(encode(levels).tobytes()).hexdigest() == expected


def test_a_single_level_has_a_code_of_length_0(decoder: str) -> None:
    for level, count in ((0, 1), (7, 100_000), (255, 3)):
        stream = encode(np.full(count, level, np.uint8))
        assert stream.tolist() == [level] + [0] * ((level + 2) // 2)
        assert (decode(stream, count) == level).all()
    with pytest.raises(ValueError, match="are equal"):
        encode(np.zeros(MOST_ALIKE + 1, np.uint8))


levels_of = st.builds(
    drawn,
    st.sampled_from([1, 2, 7, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17]),
    st.lists(st.sampled_from([0.0, 1e-4, 0.01, 1.0, 30.0]), min_size=1, max_size=256).filter(any),
    st.integers(0, 10**6),
)


@pytest.mark.parametrize("way", DECODERS)
@given(levels=levels_of)
@settings(deadline=None, max_examples=60)
def test_encoding_then_decoding_gives_the_same(way: str, levels: Levels) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if way == "numpy":
            patch.setattr(huffman, "library", lambda: None)
        stream = encode(levels)
        assert np.array_equal(decode(stream, levels.size), levels)
        assert np.array_equal(decode(encode(levels.reshape(1, -1)), levels.size), levels)
    counts = np.bincount(levels)
    filled = stream.size - huffman.total_size(counts, code_lengths(counts))
    assert 0 <= filled <= -(-levels.size // BLOCK)


@pytest.mark.skipif(library() is None, reason="the native library was not built")
@given(levels=levels_of)
@settings(deadline=None, max_examples=100)
def test_both_encoders_write_the_same_bytes(levels: Levels) -> None:
    stream = encode(levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huffman, "library", lambda: None)
        assert np.array_equal(encode(levels), stream)


def cost(counts: list[int], lengths: Any) -> int:
    return sum(count * int(length) for count, length in zip(counts, lengths, strict=True))


def unlimited(counts: list[int]) -> int:
    """The number of bits of Huffman's own code: the sum of all merged weights."""
    heap, total = [count for count in counts if count], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=256).filter(lambda counts: sum(map(bool, counts)) > 1))
@settings(deadline=None, max_examples=60)
def test_lengths_are_optimal_and_whole(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    assert int(lengths.max()) <= LONGEST
    assert [length > 0 for length in lengths.tolist()] == [count > 0 for count in counts]
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1
    assert cost(counts, lengths) >= unlimited(counts)
    free = code_lengths(np.array(counts), longest=64)
    assert cost(counts, free) == unlimited(counts)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(3, 4))
@settings(deadline=None, max_examples=60)
def test_limited_lengths_are_the_best_possible(counts: list[int], longest: int) -> None:
    codes = itertools.product(range(1, longest + 1), repeat=len(counts))
    best = min(cost(counts, lengths) for lengths in codes if sum(2.0**-length for length in lengths) <= 1)
    assert cost(counts, code_lengths(np.array(counts), longest)) == best


def test_lengths_are_limited_if_huffmans_code_would_be_longer() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(sum(fibonacci[-2:]))
    assert int(code_lengths(np.array(fibonacci)).max()) == LONGEST
    levels = np.repeat(np.arange(30, dtype=np.uint8), np.minimum(fibonacci, 5000))
    assert np.array_equal(decode(encode(levels), levels.size), levels)


LEVELS = drawn(2 * BLOCK + 100, [8, 4, 2, 1, 1])  # lengths 1 to 4
BOOK = 1 + 3


def with_book(*book: int) -> Callable[[Levels], Levels]:
    return lambda stream: np.concatenate([np.array(book, np.uint8), stream[BOOK:]])


def size_of_block(number: int, more: int) -> Callable[[Levels], Levels]:
    def changed(stream: Levels) -> Levels:
        sizes = stream[BOOK : BOOK + 6].view("<u2")
        sizes[number : number + 2] = [int(sizes[number]) + more, int(sizes[number + 1]) - more]
        return stream

    return changed


def last_bit(stream: Levels) -> Levels:
    stream[-1] |= 1
    return stream


DAMAGES: dict[str, tuple[Callable[[Levels], Levels], str]] = {
    "no bytes": (lambda stream: stream[:0], "the code book is truncated"),
    "half a book": (lambda stream: stream[:3], "the code book is truncated"),
    "no blocks": (lambda stream: stream[:BOOK], "cannot hold"),
    "cut": (lambda stream: stream[:-1], "the blocks have"),
    "longer": (lambda stream: np.append(stream, np.uint8(0)), "the blocks have"),
    "over-subscribed": (with_book(4, 0x12, 0x33, 0x40), "uses 4352 of 4096 codes"),
    "under-subscribed": (with_book(4, 0x13, 0x34, 0x40), "uses 3584 of 4096 codes"),
    "one level of length 1": (with_book(4, 0, 0, 0x10), "uses 2048 of 4096 codes"),
    "too long": (with_book(4, 0x12, 0x3D, 0x40), "a length above 12"),
    "after the last level": (with_book(4, 0x12, 0x34, 0x44), "one after the last level"),
    "the largest does not occur": (with_book(4, 0x12, 0x33, 0), "uses 4096 of 4096 codes"),
    "all alike": (with_book(4, 0, 0, 0), "equal levels"),
    "another code": (with_book(4, 0x22, 0x23, 0x30), "codes do not end|after the last level"),
    "a longer block": (size_of_block(0, 5), "codes do not end|after the last level"),
    "a shorter block": (size_of_block(0, -5), "codes do not end|after the last level"),
    "something after the end": (last_bit, "after the last level"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stream_is_refused(damage: str, decoder: str) -> None:
    change, sentence = DAMAGES[damage]
    with pytest.raises(ValueError, match=sentence):
        decode(change(encode(LEVELS).copy()), LEVELS.size)


@pytest.mark.parametrize("count", [0, 1, BLOCK, LEVELS.size - 9, LEVELS.size + 9, 3 * BLOCK, 10**6, 2**40, 2**62])
def test_a_wrong_number_of_levels_is_refused(count: int, decoder: str) -> None:
    with pytest.raises(ValueError, match=r"cannot hold|the blocks have|do not end|after the last level"):
        decode(encode(LEVELS), count)


def test_a_bomb_takes_neither_time_nor_memory(decoder: str) -> None:
    """A tiny stream that claims to be a huge tensor."""
    streams = [encode(LEVELS), encode(np.zeros(9, np.uint8)), np.array([1, 0x11, 255, 255], np.uint8)]
    streams.append(np.append([1, 0x11], np.zeros(2 * 1000)).astype(np.uint8))  # a thousand empty blocks
    tracemalloc.start()
    start = time.monotonic()
    for stream in streams:
        for count in (2**24 + 1, 10**9, 2**33, 2**62):
            with pytest.raises(ValueError, match=r"cannot hold|the blocks have"):
                decode(stream, count)
    with pytest.raises(ValueError, match="cannot hold"):
        decode(streams[-1], 1000 * BLOCK)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert time.monotonic() - start < 5


def test_mutated_streams_give_levels_or_an_error(decoder: str) -> None:
    """There is never a crash. The native decoder is also tested under the sanitizers (tests/native/sanitize.sh)."""
    draw = np.random.default_rng(0)
    refused = 0
    for number in range(1500):
        weights = draw.exponential(1, draw.integers(1, 40)).tolist()
        levels = drawn(int(draw.integers(1, 2 * BLOCK)), weights, number)
        stream = encode(levels).copy()
        for _ in range(int(draw.integers(1, 4))):
            place = int(draw.integers(0, min(stream.size, 40) if number % 2 else stream.size))
            stream[place] ^= int(draw.integers(1, 256))
        if number % 7 == 0:
            stream = stream[: int(draw.integers(0, stream.size))]
        count = levels.size if number % 5 else int(draw.integers(0, 3 * BLOCK))
        try:
            assert decode(stream, count).shape == (count,)
        except ValueError:
            refused += 1
    assert refused > 1000
