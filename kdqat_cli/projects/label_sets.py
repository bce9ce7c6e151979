"""Finds out whether a row of a user's file has one label or any number of labels, and which character separates them.

A list in a JSON file has any number of labels. Cells with a separator have several labels if most parts occur in
several different cells: `a` occurs in `a`, `a;b` and `a;c`. So a class whose name has a semicolon (`health; beauty`) is
one label. A comma between digits is not a separator, because the number may be a decimal. The user can decide with
`--multi-label` or `--single-label`.
"""

from collections import Counter
from collections.abc import Sequence

from kdqat_cli.tasks.labels import SEPARATOR

SEPARATORS = (SEPARATOR, ";", ",")
"""Possible separators of the labels in a cell; the first that fits is used."""
_INDICATORS = ("0", "1", "0.0", "1.0", "false", "true")


def separator_of(values: Sequence[object], several: bool | None) -> str | None:
    """The separator of the labels in a cell, if a row may have several labels; None: a row has one label.

    Args:
        values: values of the label's column, without empty cells.
        several: the user's decision whether a row may have several labels; None: it is guessed.
    """
    if several is False:
        return None
    cells = [value for value in values if isinstance(value, str)]
    held = [mark for mark in SEPARATORS if any(mark in cell for cell in cells)]
    if several or any(isinstance(value, list) for value in values):
        return held[0] if held else SEPARATOR
    return next((mark for mark in held if _recombines(cells, mark)), None)


def parts_of(value: object, separator: str) -> list[object]:
    """The labels of a row: the elements of a list, or the parts of a cell."""
    if isinstance(value, list):
        return value
    return [part for part in value.split(separator) if part.strip()] if isinstance(value, str) else [value]


def are_indicators(columns: Sequence[Sequence[object]]) -> bool:
    """Whether each of several columns has only 0 and 1, which suggests one column per label."""
    return len(columns) > 1 and all(str(value).lower() in _INDICATORS for column in columns for value in column)


def _recombines(cells: Sequence[str], separator: str) -> bool:
    """Whether most parts occur in several different cells."""
    different = {tuple(part.strip() for part in cell.split(separator)) for cell in cells}
    counts = Counter(part for parts in different for part in set(parts) if part)
    if separator == "," and all(part.lstrip("+-").isdigit() for part in counts):
        return False
    return 2 * sum(count > 1 for count in counts.values()) > len(counts)
