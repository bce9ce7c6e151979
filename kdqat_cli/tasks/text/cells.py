"""Rows in the form of their source: column name → value. Reads the rows of .jsonl, .csv and .tsv files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import lines
from kdqat_cli.tasks.text.tables import LONGEST_CELL, LONGEST_LINE, records

_TWICE = object()  # replaces the value of a JSON key that occurs twice in an object


class Row(NamedTuple):
    """One row in the form of its source."""

    where: str
    """The file and the place in it, for messages."""
    values: dict[str, object]
    fault: str = ""
    """What is wrong with the number of its cells, for messages."""
    named: bool = False
    """Whether its label is certainly a class name, not an index."""
    line: str = ""
    """Its line, if the source is a .jsonl file."""


def cell(row: Row, column: str) -> object:
    """A row's value in a column; a dotted name leads into nested dictionaries. None: there is no such column.

    Raises:
        MissingInputError: a JSON object has the key twice.
    """
    value: object = row.values
    for key in [column] if column in row.values else column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
        if value is _TWICE:
            raise MissingInputError(f"{row.where}: the key {key!r} occurs twice.", "one of them removed")
    return value


def text_in(row: Row, column: str) -> str:
    """A row's text.

    Raises:
        MissingInputError: the value is not text, too long, or not valid Unicode.
    """
    value = cell(row, column)
    if not isinstance(value, str):
        raise MissingInputError(
            f"{row.where}: the column {column!r} holds {shown(value)}, which is not text.",
            f"{column}: a string in double quotes",
        )
    if len(value) > LONGEST_CELL:
        raise MissingInputError(
            f"{row.where}: the column {column!r} has more than {LONGEST_CELL:,} characters.", "a shorter text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can contain one half of a surrogate pair
        raise MissingInputError(
            f"{row.where}: the column {column!r} is not valid Unicode: it holds half of a surrogate pair.",
            "the text without that character",
        ) from error
    return value


def table_rows(path: Path, quoting: bool | None) -> Iterator[Row]:
    """The rows of a table without a task file; a row with too many or too few cells has a fault.

    Args:
        path: a .csv or .tsv file, whose first line names its columns.
        quoting: see `TextTask.quoting`.

    Raises:
        MissingInputError: the file cannot be read, is empty, or has two columns with the same name.
    """
    table = records(path, quoting)
    header = next(table, None)
    if header is None:
        raise MissingInputError(f"{path} is empty.", "a first line with the names of the columns")
    names = header.cells
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MissingInputError(
            f"{path}, line {header.line}: the column {twice!r} occurs twice.", "another name for one of them"
        )
    for line, cells, _ in table:
        fault = "" if len(cells) == len(names) else f"{len(cells)} columns instead of {len(names)}"
        yield Row(f"{path}, line {line}", dict(zip(names, cells, strict=False)), fault)


def json_lines(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl file; empty lines are left out.

    Raises:
        MissingInputError: the file cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate(lines(path, LONGEST_LINE), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield json_row(where, parsed(line, where))._replace(line=line)


def parsed(text: str, where: str) -> object:
    """The JSON value of a text.

    Raises:
        MissingInputError: the text is not valid JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_json_object)
    except (ValueError, RecursionError) as error:
        raise MissingInputError(f"{where} is not valid JSON: {error}.", "one JSON object per row") from error


def _json_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a key that occurs twice has the value `_TWICE`, which is refused when it is used."""
    item = dict(pairs)
    if len(item) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        item |= {key: _TWICE for key, count in counts.items() if count > 1}
    return item


def json_row(where: str, item: object) -> Row:
    """A JSON object as a row.

    Raises:
        MissingInputError: the value is not an object.
    """
    if not isinstance(item, dict):
        raise MissingInputError(f"{where} is not an object with columns.", '{"COLUMN": …, "COLUMN": …} per row')
    return Row(where, item)
