"""The levels of each weight quantiser, by its name: what options, records and packed files are checked with. No torch.

`quantizers/weights.py` holds the quantisers themselves; its `register` adds the name of one that is defined elsewhere.
"""

from collections.abc import Collection

LEVELS: dict[str, Collection[int]] = {"ternary": range(-1, 2), "int4": range(-7, 8), "int8": range(-127, 128)}
"""Values of `--weights` → the integers that the weights are multiples of."""

TRITS = range(-1, 2)
"""What the packed file, the engine and every 2-bit format hold."""


def are_trits(levels: Collection[int]) -> bool:
    """Whether all levels are among -1, 0 and 1."""
    return all(level in TRITS for level in levels)
