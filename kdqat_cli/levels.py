"""What levels of quantised weights fit."""

from collections.abc import Collection

TRITS = range(-1, 2)
"""What the packed file, the engine and every 2-bit format hold."""


def are_trits(levels: Collection[int]) -> bool:
    """Whether there are levels, and all are among -1, 0 and 1."""
    return bool(levels) and all(level in TRITS for level in levels)
