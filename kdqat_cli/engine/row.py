"""One sequence, as a tokenizer makes it and a model takes it."""

from collections.abc import Sequence

Row = tuple[Sequence[int], Sequence[int] | None]
"""Token ids of one sequence, and its token types (None: all 0)."""
