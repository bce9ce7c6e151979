"""Finds out whether a row of a user's file has one label or any number of them, and what separates them in a cell.

A list of a JSON file holds any number of labels. A cell with separators holds several labels if most of its parts are
parts of several different cells, as `a` is of `a`, `a;b` and `a;c`. So a class whose name has a semicolon (`health;
beauty`) is one label. Numbers with a comma may be decimals, so a comma between numbers separates nothing. The user can
say either (`--multi-label`, `--single-label`).
"""

from collections import Counter
from collections.abc import Sequence

from kdqat_cli.tasks.labels import SEPARATOR

SEPARATORS = (SEPARATOR, ";", ",")
"""What may stand between the labels of a cell; the first that fits is taken."""
_INDICATORS = ("0", "1", "0.0", "1.0", "false", "true")


def separator_of(values: Sequence[object], several: bool | None) -> str | None:
    """What separates the labels of a row, where a cell holds several; None: a row has one label.

    Args:
        values: of the label's column, without empty cells.
        several: what the user says; None: nothing.
    """
    if several is False:
        return None
    cells = [value for value in values if isinstance(value, str)]
    held = [mark for mark in SEPARATORS if any(mark in cell for cell in cells)]
    if several or any(isinstance(value, list) for value in values):
        return held[0] if held else SEPARATOR
    return next((mark for mark in held if _recombines(cells, mark)), None)


def parts_of(value: object, separator: str) -> list[object]:
    """The labels of a row, as its list or its cell holds them."""
    if isinstance(value, list):
        return value
    return [part for part in value.split(separator) if part.strip()] if isinstance(value, str) else [value]


def are_indicators(columns: Sequence[Sequence[object]]) -> bool:
    """Whether each of several columns holds 0 and 1 alone, as where each label has a column."""
    return len(columns) > 1 and all(str(value).lower() in _INDICATORS for column in columns for value in column)


def _recombines(cells: Sequence[str], separator: str) -> bool:
    """Whether most parts occur in several different cells."""
    different = {tuple(part.strip() for part in cell.split(separator)) for cell in cells}
    counts = Counter(part for parts in different for part in set(parts) if part)
    if separator == "," and all(part.lstrip("+-").isdigit() for part in counts):
        return False
    return 2 * sum(count > 1 for count in counts.values()) > len(counts)
