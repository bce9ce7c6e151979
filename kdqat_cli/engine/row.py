"""The type of one tokenised sequence."""

from collections.abc import Sequence

Row = tuple[Sequence[int], Sequence[int] | None]
"""The token ids of a sequence, and its token types (None: all 0)."""
