"""Finds the columns of the texts and the label in a user's file, and the labels.

Columns are found by common names (`label`, `premise` and `hypothesis`), else by their values. If two answers are
possible, the error names the option that decides.

- A label column repeats a few short values. Numbers that are not integers, or more than 20 numbers, are a regression.
- A row may have several labels: a list, or a cell with separators whose parts recombine (label_sets.py).
- The values of a text column have several words, or several letters in a script without spaces, and rarely repeat.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

from kdqat_cli.errors import ConfigError, MissingInputError, shown
from kdqat_cli.projects.label_sets import are_indicators, parts_of, separator_of
from kdqat_cli.tasks.labels import SEPARATOR
from kdqat_cli.tasks.text.cells import Row, cell
from kdqat_cli.tasks.text.data import column_fix, raw_rows
from kdqat_cli.tasks.text.schema import Columns

_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "rating", "stars", "score")
_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "pair"),
    ("question", "answer"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
)
_MOST_CLASSES = 50  # in a column whose name does not show that it is the label
_PER_CLASS = 5  # average number of rows per label
_MOST_NUMBERS = 20  # different integers that are still classes
_LENGTHS = (64, 128, 256, 512)  # tokens
_COVERED = 0.95  # share of the rows that are not cut


class Given(NamedTuple):
    """Facts about a file from the user; None: the fact is guessed."""

    text: str | None = None
    """Column of the text, or of a pair's first text."""
    pair: str | None = None
    """Column of a pair's second text."""
    label: str | None = None
    """Column of the label."""
    quoting: bool | None = None
    """Whether double quotes enclose a cell."""
    several: bool | None = None
    """Whether a row may have several labels, or none."""


class Found(NamedTuple):
    """The facts about a file."""

    columns: Columns
    """Columns of texts and label."""
    labels: list[str] | None
    """The classes, sorted; None: the label is a number."""
    range: list[float] | None
    """Smallest and largest label, if it is a number."""
    separator: str | None
    """The separator of the labels in a cell, if a row may have several labels; None: a row has one label."""
    max_length: int
    """Number of tokens that most rows do not exceed, estimated from their characters."""


def guess(path: Path, given: Given) -> Found:
    """Finds the facts about a file of rows.

    Args:
        path: a .csv, .tsv, .txt, .jsonl or .json file.
        given: facts that need not be guessed.

    Raises:
        ConfigError: the columns are not clear, or a model cannot learn the labels.
        MissingInputError: the file cannot be read, or has no rows.
    """
    rows = list(raw_rows(path, given.quoting))
    if not rows:
        raise MissingInputError(f"{path} holds no rows.", "a file with a header and one row per line")
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    if len(names) < 2:
        raise ConfigError(f"{path} has only the column {names[0]!r}.", column_fix("label", names))
    _refuse_header(path, rows, names)
    for name in (given.text, given.pair, given.label):
        if name is not None and all(cell(row, name) is None for row in rows):
            raise ConfigError(f"{path} has no column {name!r}; it has {_listed(names)}.", "the name of a column")
    label = given.label or _label_column(path, rows, [name for name in names if name not in given])
    text, pair = _text_columns(path, rows, [name for name in names if name != label], given)
    columns = Columns(text=text, pair=pair, label=label)
    values = [value for row in rows if not _empty(value := cell(row, label))]
    return Found(columns, *_answers(f"{path}: the column {label!r}", values, given.several), _max_length(rows, columns))


def _refuse_header(path: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Refuses a file whose first line is a row, not a header."""
    if path.suffix in (".json", ".jsonl"):
        return
    for name in names:
        if name.strip() and any(row.values.get(name) == name for row in rows):
            raise ConfigError(
                f"{path}: {shown(name)} is the name of a column and also a value in it.",
                "a first line with the names of the columns, for example text,label; and no such line later",
            )


def _label_column(path: Path, rows: Sequence[Row], names: Sequence[str]) -> str:
    named = [name for name in names if name.strip().casefold() in _LABELS]
    found = named or [name for name in names if _holds_labels(_values(rows, name))]
    if len(found) == 1:
        return found[0]
    if are_indicators([_values(rows, name) for name in found]):
        raise ConfigError(
            f"{path}: the columns {_listed(found)} have only 0 and 1, as if each were a label; kdqat reads the "
            "labels of a row from one column.",
            f"one column with the names of the row's labels, as a{SEPARATOR}b; or {_options('label', found[:1])}, "
            "which learns this label alone",
        )
    if found:
        raise ConfigError(f"{path}: several columns could be the label: {_listed(found)}.", _options("label", found))
    raise ConfigError(
        f"{path}: no column looks like a label, which would repeat a few short values; it has {_listed(names)}.",
        "--label-column NAME",
    )


def _text_columns(path: Path, rows: Sequence[Row], names: Sequence[str], given: Given) -> tuple[str, str | None]:
    if given.text is not None:
        return given.text, given.pair
    others = [name for name in names if name != given.pair]
    found = [name for name in others if _is_text(_values(rows, name))]
    if not found and len(others) == 1:
        found = others
    if len(found) == 1:
        return found[0], given.pair
    if given.pair is None and len(found) == 2 and (known := _known_pair(found)):
        return known
    if found:
        fix = " or ".join(f"--text-column {name}" for name in found)
        fix += f"; for pairs of texts --text-column {found[0]} --pair-column {found[1]}"
        raise ConfigError(f"{path}: several columns could be the text: {_listed(found)}.", fix)
    raise ConfigError(f"{path}: no column looks like a text; it has {_listed(others)}.", "--text-column NAME")


def _known_pair(names: Sequence[str]) -> tuple[str, str] | None:
    plain = {name.strip().casefold(): name for name in names}
    return next(((plain[one], plain[two]) for one, two in _PAIRS if plain.keys() == {one, two}), None)


def _answers(
    where: str, values: Sequence[object], several: bool | None
) -> tuple[list[str] | None, list[float] | None, str | None]:
    """The classes or the range of numbers; and the separator of labels, if a row may have several."""
    if several is not False:
        _refuse_lists_as_text(where, values)
    separator = separator_of(values, several)
    if separator is None:
        return *_labels(where, values), None
    return _label_sets(where, values, separator), None, separator


def _label_sets(where: str, values: Sequence[object], separator: str) -> list[str]:
    """The classes of rows with any number of labels."""
    if odd := next((value for value in values if isinstance(value, dict)), None):
        raise ConfigError(f"{where} holds {shown(odd)}, which is not a list of labels.", "--label-column NAME")
    rows = [sorted({_class(part) for part in parts_of(value, separator)}) for value in values]
    classes = Counter(name for row in rows for name in row)
    if len(classes) < 2 or all(row == rows[0] for row in rows):
        what = f"has the labels {_listed(sorted(classes))} in every row" if classes else "has no labels"
        raise ConfigError(f"{where} {what}, so there is nothing to learn.", "--label-column NAME")
    if barred := next((name for name in classes if SEPARATOR in name), None):
        raise ConfigError(f"{where}: the label {barred!r} has a vertical bar.", "a label's name without it")
    return _learnable(where, classes, len(values), "--label-column NAME, or more rows")


def _labels(where: str, values: Sequence[object]) -> tuple[list[str] | None, list[float] | None]:
    """The classes, or the range of numbers."""
    if odd := next((value for value in values if isinstance(value, list | dict)), None):
        raise ConfigError(f"{where} holds {shown(odd)}, not one label per row.", "--label-column NAME")
    classes = Counter(_class(value) for value in values)
    if len(classes) < 2:
        what = f"has the value {shown(next(iter(classes)))} in every row" if classes else "is empty"
        raise ConfigError(f"{where} {what}, so there is nothing to learn.", "--label-column NAME")
    numbers = _numbers(classes)
    if numbers and (len(numbers) > _MOST_NUMBERS or not all(number.is_integer() for number in numbers)):
        return None, [float(floor(min(numbers))), float(ceil(max(numbers)))]
    fix = "--label-column NAME, more rows, or --multi-label, if a cell has several labels"
    return _learnable(where, classes, len(values), fix), None


def _refuse_lists_as_text(where: str, values: Sequence[object]) -> None:
    cells = [value.strip() for value in values if isinstance(value, str)]
    if cells and all(cell.startswith("[") and cell.endswith("]") for cell in cells):
        fix = f"a .jsonl file with lists, or cells of the form a{SEPARATOR}b; or --single-label, if these are the names"
        raise ConfigError(f"{where} has lists as text, such as {shown(cells[0])}.", fix)


def _learnable(where: str, classes: Counter[str], rows: int, fix: str) -> list[str]:
    """The names of classes, sorted.

    Raises:
        ConfigError: they are too many (`fix` is the remedy), or differ only in case.
    """
    if rows < _PER_CLASS * len(classes):
        raise ConfigError(f"{where} has {len(classes)} values in {rows} rows, too many to learn them as labels.", fix)
    folded = Counter(name.casefold() for name in classes)
    if twice := [name for name in classes if folded[name.casefold()] > 1]:
        raise ConfigError(f"{where}: the labels {_listed(sorted(twice))} differ only in case.", "one spelling of each")
    return sorted(classes, key=(lambda name: (float(name), name)) if _numbers(classes) else None)


def _class(value: object) -> str:
    """The class name of a value, in the form of `Labels`: true instead of Python's True, as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _numbers(names: Iterable[str]) -> list[float]:
    """The names as numbers; empty if one is not a number."""
    try:
        return [float(name) for name in names]
    except ValueError:
        return []


def _values(rows: Sequence[Row], name: str) -> list[object]:
    return [value for row in rows if not _empty(value := row.values.get(name))]


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _holds_labels(values: Sequence[object]) -> bool:
    """Whether values look like labels, or like sets of them."""
    if _repeats(values):
        return True
    separator = separator_of(values, None)
    return separator is not None and _repeats([part for value in values for part in parts_of(value, separator)])


def _repeats(values: Sequence[object]) -> bool:
    """Whether values look like labels."""
    if any(isinstance(value, list | dict) or len(str(value)) > _MOST_CLASSES for value in values):
        return False
    count = len({str(value) for value in values})
    return 2 <= count <= _MOST_CLASSES and len(values) >= _PER_CLASS * count


def _is_text(values: Sequence[object]) -> bool:
    """Whether values look like texts that a model can read."""
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values) or _repeats(values):
        return False
    return sum(map(_looks_written, texts)) > len(texts) / 2


def _looks_written(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    several = " " in text.strip() or sum(character.isalpha() and not character.isascii() for character in text) > 1
    return several and letters > len(text) / 2


def _max_length(rows: Sequence[Row], columns: Columns) -> int:
    """Estimates tokens: one per four characters of English, one per character of Chinese, and three added ones."""
    names = [name for name in (columns.text, columns.pair) if name is not None]
    sizes = sorted(sum(_tokens(cell(row, name)) for name in names) + 3 for row in rows)
    enough = sizes[min(len(sizes) - 1, int(_COVERED * len(sizes)))]
    return next((length for length in _LENGTHS if length >= enough), _LENGTHS[-1])


def _tokens(value: object) -> float:
    text = value if isinstance(value, str) else ""
    plain = sum(character.isascii() for character in text)
    return plain / 4 + (len(text) - plain)


def _options(what: str, names: Sequence[str]) -> str:
    return " or ".join(f"--{what}-column {name}" for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))[:200]
