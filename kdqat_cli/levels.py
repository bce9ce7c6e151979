"""Checks of the levels of quantised weights."""

from collections.abc import Collection

TRITS = range(-1, 2)
"""The levels that the engine and every 2-bit format can hold."""


def are_trits(levels: Collection[int]) -> bool:
    """Whether there are levels, and all of them are -1, 0 or 1."""
    return bool(levels) and all(level in TRITS for level in levels)
