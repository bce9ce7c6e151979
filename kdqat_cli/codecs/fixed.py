"""Levels with a fixed number of bits each.

byte 0        bits per level b, 1 to 8
then          the levels one after the other, b bits each, the highest bit first; the last byte is padded with zeros
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**17  # levels at once, a multiple of 8; while they are packed, each bit takes one byte of memory


def bits_of(largest: int) -> int:
    """The number of bits of a level, for levels from 0 to `largest`."""
    return max(1, largest.bit_length())


def size(count: int, bits: int) -> int:
    """The number of bytes of a stream of `count` levels."""
    return 1 + -(-count * bits // 8)


def encode(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels of any shape, flattened → their stream."""
    flat = levels.reshape(-1)
    bits = bits_of(int(flat.max(initial=0)))
    out = np.empty(size(flat.size, bits), np.uint8)
    out[0] = bits
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        packed = np.packbits(np.unpackbits(block[:, None], axis=1)[:, 8 - bits :])
        at = 1 + start * bits // 8
        out[at : at + packed.size] = packed
    return out


def decode(stream: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The `count` levels of a stream, flat.

    Raises:
        ValueError: the number of bits is not 1 to 8, the length does not fit the count, or bits after the last level
            are not zero.
    """
    bits = int(stream[0]) if stream.size else 0
    if not 1 <= bits <= 8:
        raise ValueError(f"levels of {bits} bits")
    if stream.size != size(count, bits):
        raise ValueError(f"{stream.size} bytes cannot hold exactly {count} levels of {bits} bits")
    out = np.empty(count, np.uint8)
    for start in range(0, count, _BLOCK):
        here = min(_BLOCK, count - start)
        at = 1 + start * bits // 8
        unpacked = np.unpackbits(stream[at : at + -(-here * bits // 8)])
        if unpacked[here * bits :].any():
            raise ValueError("bits after the last level are not zero")
        wide = np.zeros((here, 8), np.uint8)
        wide[:, 8 - bits :] = unpacked[: here * bits].reshape(here, bits)
        out[start : start + here] = np.packbits(wide)
    return out
