"""The codecs: levels (uint8, from 0 on) ⇄ bytes, exactly.

    codec      bytes                                     levels
    trits      five levels per byte, 1.6 bits each       0, 1, 2     trits.py
    fixed      1 to 8 bits each                          all         fixed.py
    huffman    fewer bits for frequent levels            all         huffman.py

A stream contains everything that decoding needs (numbers of bits, code books), so its size is the full size. To add a
codec, write a file with `encode` and `decode`, add an entry to `CODECS`, and add its size to `smallest`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.codecs import fixed, huffman, trits

Levels = NDArray[np.uint8]
Stream = NDArray[np.uint8]


class Codec(NamedTuple):
    """How levels are stored."""

    encode: Callable[[Levels], Stream]
    """Levels of any shape, at least one → bytes; ValueError if the codec cannot hold them."""
    decode: Callable[[Stream, int], Levels]
    """Bytes and the number of levels → the flat levels; ValueError if the bytes do not hold that many levels."""


CODECS = {
    "trits": Codec(trits.encode, trits.decode),
    "fixed": Codec(fixed.encode, fixed.decode),
    "huffman": Codec(huffman.encode, huffman.decode),
}


def smallest(levels: Levels) -> tuple[str, Stream]:
    """The codec whose stream has the fewest bytes, and the stream; of equal sizes, the first in the catalogue."""
    counts = np.bincount(levels.reshape(-1))
    sizes = {"fixed": fixed.size(levels.size, fixed.bits_of(len(counts) - 1))}
    if len(counts) <= 3:
        sizes["trits"] = trits.packed_size(levels.size)
    name = min(sorted(sizes, reverse=True), key=lambda name: sizes[name])
    lengths = huffman.code_lengths(counts)
    alike = not lengths.any() and levels.size > huffman.MOST_ALIKE
    if not alike and huffman.total_size(counts, lengths) < sizes[name]:
        stream = huffman.encode(levels)
        if stream.size < sizes[name]:
            return "huffman", stream
    return name, CODECS[name].encode(levels)


def decode(codec: object, stream: Stream, count: int) -> Levels:
    """The levels of a stream.

    Raises:
        ValueError: there is no such codec, or the stream does not hold exactly `count` levels.
    """
    if not isinstance(codec, str) or codec not in CODECS:
        raise ValueError(f"there is no codec {codec!r}")
    return CODECS[codec].decode(stream, count)
