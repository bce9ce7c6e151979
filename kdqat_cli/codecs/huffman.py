"""Canonical Huffman codes of limited length: frequent levels take fewer bits (Larmore and Hirschberg 1990).

    byte 0                    the largest level m
    (m + 2)//2 bytes          code lengths of levels 0 to m, four bits each, high half first; 0: does not occur
    2 bytes per block         bytes of the block, little-endian; a block has 4,096 levels, the last may have fewer
    then the blocks           codes one after the other, the highest bit first; a block's last byte is padded with zeros

Codes are canonical: in the order of (length, level), each code is the code before it plus 1, extended with zeros to its
own length. Lengths are at most 12, so one look-up in a table of 4,096 entries decodes a level. If all lengths are 0,
only the largest level occurs; its code has length 0, and there are no blocks.

Blocks start at whole bytes, so they can be decoded independently: the native library decodes one after the other, numpy
decodes all of them at once. Blocks cost 0.006 bits per level. Without the library numpy encodes too, to the same bytes.

Guarantees
- Under the length limit, no prefix code is shorter in total.
- A stream that `encode` did not make gives levels or one ValueError. Time and memory are proportional to the stream, or
  to at most `MOST_ALIKE` levels if the code has length 0.
"""

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.native.library import call, library

LONGEST = 12
"""The largest number of bits of a code."""
BLOCK = 4096
"""The number of levels of a block."""
MOST_ALIKE = 2**24
"""The largest number of levels if all are equal, because the size of such a stream does not bound their number."""
_ENCODED = 256  # blocks at once in numpy; while they are encoded, each bit takes one byte of memory


def code_lengths(counts: NDArray[np.int64], longest: int = LONGEST) -> NDArray[np.uint8]:
    """The lengths of an optimal code, by package-merge.

    Args:
        counts: how often each level occurs, for up to 256 levels.
        longest: the largest number of bits of a code; 2^longest is at least the number of levels.

    Returns:
        One length per level; 0 for a level that does not occur, and for the only level that occurs.
    """
    lengths = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return lengths
    order = used[np.argsort(counts[used], kind="stable")]
    singles, taken = counts[order], 2 * len(used) - 2
    # An item of a row is the count of a level, or a package: the sum of two items of the row before.
    row, rows = singles, [np.ones(len(used), bool)]
    for _ in range(longest - 1):
        packages = row[: len(row) // 2 * 2].reshape(-1, 2).sum(1)
        items = np.concatenate([singles, packages])
        sorting = np.argsort(items, kind="stable")[:taken]  # the items after these are never taken
        row = items[sorting]
        rows.append(sorting < len(used))
    for single in reversed(rows):
        here = int(single[:taken].sum())
        lengths[order[:here]] += 1
        taken = 2 * (taken - here)  # what the packages were made of
    return lengths


def total_size(counts: NDArray[np.int64], lengths: NDArray[np.uint8]) -> int:
    """The number of bytes of a stream without the padding of its blocks (at most one byte per block)."""
    count, book = int(counts.sum()), 1 + (len(counts) + 1) // 2
    return book + (2 * -(-count // BLOCK) + -(-int((counts * lengths).sum()) // 8) if lengths.any() else 0)


def encode(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels of any shape, at least one, flattened → their stream.

    Raises:
        ValueError: there are more than MOST_ALIKE levels, and all are equal.
    """
    flat = np.ascontiguousarray(levels).reshape(-1)
    counts = np.bincount(flat)
    lengths = code_lengths(counts)
    if not lengths.any() and flat.size > MOST_ALIKE:
        raise ValueError(f"all of {flat.size} levels are equal")
    halves = np.append(lengths, np.zeros(len(lengths) % 2, np.uint8)).reshape(-1, 2)
    book = [np.array([len(lengths) - 1], np.uint8), halves[:, 0] << 4 | halves[:, 1]]
    if not lengths.any():
        return np.concatenate(book)
    coded = _in_one_pass if library() is not None else _bit_by_bit
    sizes, blocks = coded(flat, counts, lengths)
    return np.concatenate([*book, sizes.astype("<u2").view(np.uint8), blocks])


def decode(stream: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The `count` levels of a stream, flat.

    Raises:
        ValueError: no code has these lengths, the size does not fit the count, codes do not end at the end of their
            block, or bits after the last level of a block are not zero.
    """
    lengths, rest = _book(stream)
    if not lengths.any():
        if rest.size or count > MOST_ALIKE:
            raise ValueError(f"{rest.size} bytes cannot hold {count} equal levels")
        return np.full(count, len(lengths) - 1, np.uint8)
    blocks = -(-count // BLOCK)
    if rest.size < 2 * blocks or 8 * (rest.size - 2 * blocks) < count:
        raise ValueError(f"{rest.size} bytes cannot hold {count} levels")
    sizes, payload = rest[: 2 * blocks].view("<u2"), rest[2 * blocks :]
    if int(sizes.sum(dtype=np.int64)) != payload.size:
        raise ValueError(f"the blocks have {sizes.sum(dtype=np.int64)} bytes in total, but {payload.size} are there")
    table = _table(lengths)
    if library() is None:
        return _side_by_side(payload, sizes, table, count)
    out = np.empty(count, np.uint8)
    # Copies, because the parts of a stream need not be aligned.
    payload, sizes = np.ascontiguousarray(payload), sizes.astype(np.uint16)
    call("kdqat_huffman", payload, payload.size, sizes, table, BLOCK, count, out)
    return out


def _book(stream: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The code lengths, checked, and the rest of the stream."""
    largest = int(stream[0]) if stream.size else 0
    end = 1 + (largest + 2) // 2
    if stream.size < end:
        raise ValueError("the code book is truncated")
    halves = np.stack([stream[1:end] >> 4, stream[1:end] & 15], 1).reshape(-1)
    lengths = halves[: largest + 1]
    if halves[largest + 1 :].any() or (lengths > LONGEST).any():
        raise ValueError(f"the code book has a length above {LONGEST}, or one after the last level")
    # Kraft's equality: the codes fill the tree of LONGEST bits exactly.
    taken = int((2**LONGEST >> lengths[lengths > 0].astype(np.int64)).sum())
    if taken not in (0, 2**LONGEST) or (taken and not lengths[-1]):
        raise ValueError(f"the code book uses {taken} of {2**LONGEST} codes")
    return lengths, stream[end:]


def _codes(lengths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The canonical code of each level, as a number."""
    codes, code, before = np.zeros(len(lengths), np.uint32), 0, 0
    for level in sorted(np.flatnonzero(lengths), key=lambda level: (lengths[level], level)):
        code <<= int(lengths[level]) - before
        codes[level], before, code = code, int(lengths[level]), code + 1
    return codes


def _table(lengths: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """For each number of LONGEST bits: the level whose code it begins with, plus 256 times the length of the code."""
    table, codes = np.empty(2**LONGEST, np.uint16), _codes(lengths)
    for level in np.flatnonzero(lengths):
        free = LONGEST - int(lengths[level])
        start = int(codes[level]) << free
        table[start : start + (1 << free)] = int(lengths[level]) << 8 | int(level)
    return table


def _in_one_pass(
    flat: NDArray[np.uint8], counts: NDArray[np.int64], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The sizes of the blocks in bytes, and the blocks; by the native library."""
    sizes = np.empty(-(-flat.size // BLOCK), np.uint16)
    most = -(-int((counts * lengths).sum()) // 8) + sizes.size  # each block may be padded
    blocks = np.empty(most + 8, np.uint8)
    codes = lengths.astype(np.uint16) << LONGEST | _codes(lengths).astype(np.uint16)
    call("kdqat_huffman_encode", flat, flat.size, BLOCK, codes, sizes, blocks, blocks.size)
    return sizes, blocks[: int(sizes.sum(dtype=np.int64))]


def _bit_by_bit(
    flat: NDArray[np.uint8], counts: NDArray[np.int64], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The same in numpy."""
    codes, parts = _codes(lengths), []
    for start in range(0, flat.size, BLOCK * _ENCODED):
        parts.append(_blocks(flat[start : start + BLOCK * _ENCODED], codes, lengths))
    sizes, blocks = zip(*parts, strict=True)
    return np.concatenate(sizes).astype(np.uint16), np.concatenate(blocks)


def _blocks(
    flat: NDArray[np.uint8], codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The sizes of the blocks in bytes, and the blocks."""
    starts = np.arange(0, flat.size, BLOCK)
    each = lengths[flat].astype(np.int64)
    ends = np.cumsum(each)
    of_block = np.add.reduceat(each, starts)
    sizes = -(-of_block // 8)
    # A code starts where the code before it ends, plus the padding of the blocks before its own.
    filled = np.cumsum(8 * sizes - of_block) - (8 * sizes - of_block)
    places = ends - each + np.repeat(filled, np.diff(np.append(starts, flat.size)))
    bits = np.zeros(8 * int(sizes.sum()), np.uint8)
    code = codes[flat]
    for bit in range(int(lengths.max())):
        has = each > bit
        bits[places[has] + bit] = code[has] >> (each[has] - bit - 1).astype(np.uint32) & 1
    return sizes, np.packbits(bits)


def _side_by_side(
    payload: NDArray[np.uint8], sizes: NDArray[np.uint16], table: NDArray[np.uint16], count: int
) -> NDArray[np.uint8]:
    """Decodes in numpy: each step decodes the next level of all blocks at once."""
    # The zeros are for damaged codes, which may go on after the payload.
    padded = np.append(payload, np.zeros(BLOCK * LONGEST // 8 + 3, np.uint8)).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    ends = 8 * np.cumsum(sizes.astype(np.int64))
    at = ends - 8 * sizes.astype(np.int64)
    out = np.empty((BLOCK, len(sizes)), np.uint8)
    last = count - BLOCK * (len(sizes) - 1)
    ended = at.copy()
    for step in range(min(BLOCK, count)):
        found = table[words[at >> 3] >> (12 - (at & 7)).astype(np.uint32) & 0xFFF]
        out[step] = found & 255
        at = at + (found >> 8)
        if step == last - 1:
            ended[-1] = at[-1]
    ended[:-1] = at[:-1]
    left = ends - ended
    if ((left < 0) | (left > 7)).any():
        raise ValueError("codes do not end at the end of their block")
    if (words[np.maximum(ends - 8, 0) >> 3] >> 16 & ((1 << left) - 1)).any():
        raise ValueError("bits after the last level of a block are not zero")
    return np.ascontiguousarray(out.T).reshape(-1)[:count]
