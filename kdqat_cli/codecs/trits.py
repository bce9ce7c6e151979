"""Five ternary codes in one byte: 1.6 bits per weight.

    byte = Σ_{i<5} (code_i + 1) · 3^i,   0 … 242

The last byte of a tensor is padded with the digit 0 (code -1). Bytes above 242 are invalid.
"""

import numpy as np
from numpy.typing import NDArray

TRITS_PER_BYTE = 5
LARGEST_BYTE = 3**TRITS_PER_BYTE - 1

# Row b has the five codes of byte b, so that unpacking is one table look-up.
_CODES = (np.arange(LARGEST_BYTE + 1)[:, None] // 3 ** np.arange(TRITS_PER_BYTE) % 3 - 1).astype(np.int8)


def packed_size(count: int) -> int:
    """The number of bytes of `count` codes."""
    return -(-count // TRITS_PER_BYTE)


def pack(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes in {-1, 0, 1} of any shape, flattened row by row → ⌈count / 5⌉ bytes."""
    digits = np.zeros(packed_size(codes.size) * TRITS_PER_BYTE, dtype=np.uint8)
    np.add(codes.reshape(-1), 1, out=digits[: codes.size], casting="unsafe")
    # Horner's rule over the columns stays in 8 bits; a matrix product would widen every digit.
    columns = digits.reshape(-1, TRITS_PER_BYTE)
    packed = columns[:, TRITS_PER_BYTE - 1].copy()
    for column in range(TRITS_PER_BYTE - 2, -1, -1):
        packed *= 3
        packed += columns[:, column]
    return packed


def unpack(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The first `count` codes of `packed`, flat.

    Raises:
        ValueError: a byte is invalid, or the length does not fit the count.
    """
    if packed.size != packed_size(count):
        raise ValueError(f"{packed.size} bytes cannot hold exactly {count} codes")
    if packed.size and packed.max() > LARGEST_BYTE:
        raise ValueError(f"a byte is above {LARGEST_BYTE}, the largest byte of five ternary codes")
    return _CODES[packed].reshape(-1)[:count]


def encode(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels 0, 1 and 2 (the codes plus 1) → bytes.

    Raises:
        ValueError: a level is above 2.
    """
    if levels.max(initial=0) > 2:
        raise ValueError("a trit is at most 2, but a level is higher")
    return pack(levels.astype(np.int8) - np.int8(1))


def decode(stream: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The `count` levels of a stream, flat.

    Raises:
        ValueError: see `unpack`; or digits after the last level are not zero.
    """
    levels = (unpack(stream, count) + np.int8(1)).view(np.uint8)
    if count % TRITS_PER_BYTE and stream[-1] >= 3 ** (count % TRITS_PER_BYTE):
        raise ValueError("digits after the last level are not zero")
    return levels
