"""Reads tab and comma separated files: their rows, with the line on which each row begins.

Such files have one of two dialects. In the first, a double quote is a character like any other (GLUE, NSMC). In the
second, which spreadsheets and pandas write, double quotes enclose a cell, and the cell may contain separators and line
ends. If a file is read in the wrong dialect, a stray quote joins rows without an error. So a task file can name the
dialect (`quoting`). If it does not, a .csv has enclosed cells, and a cell of a .tsv or .txt that begins with a double
quote is refused.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import lines

LONGEST_CELL = 2**24
"""Largest number of characters of a cell; the limit of the standard library, 2**17, is too small for documents."""
LONGEST_LINE = 4 * LONGEST_CELL
"""Largest number of bytes of a line, in any format."""
CONVERT_LINE_ENDS = "tr '\\r' '\\n' < FILE > NEW, if a carriage return (CR) ends each line of the file"


class Record(NamedTuple):
    """One row of a table."""

    line: int
    """The line on which it begins, from 1."""
    cells: list[str]
    """Its cells."""
    parts: list[list[str]]
    """For a row of several lines: the cells of each line if quotes were ordinary characters; otherwise empty."""


def records(path: Path, quoting: bool | None) -> Iterator[Record]:
    """The rows of a .tsv, .txt or .csv file, with its header; empty lines are left out.

    Args:
        path: the file.
        quoting: whether double quotes enclose a cell; None: yes in a .csv, not known in other files.

    Raises:
        MissingInputError: the file cannot be read, or its quotes are wrong, or their meaning is not known.
    """
    comma = path.suffix == ".csv"
    separator = "," if comma else "\t"
    if quoting or (quoting is None and comma):
        return _enclosed(path, separator)
    return _literal(path, separator, wary=quoting is None)


def _literal(path: Path, separator: str, wary: bool) -> Iterator[Record]:
    for number, line in enumerate(lines(path, LONGEST_LINE), 1):
        cells = _split(line, separator)
        quoted = next((cell for cell in cells if cell.startswith('"')), None) if wary else None
        if quoted is not None:
            raise MissingInputError(
                f"{path}, line {number}: a cell begins with a double quote ({shown(quoted)}), and the task file does "
                "not say what that means.",
                "quoting: false in the task file, if quotes are part of the text; quoting: true, if they enclose cells",
            )
        if cells != [""]:
            yield Record(number, cells, [])


def _enclosed(path: Path, separator: str) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_CELL)
    held: list[str] = []  # the lines of the record that is being read

    def noted() -> Iterator[str]:
        for line in lines(path, LONGEST_LINE):
            held.append(line)
            yield line

    reader = csv.reader(noted(), delimiter=separator, strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells:
                yield Record(begin, cells, [_split(line, separator) for line in held] if len(held) > 1 else [])
            begin = reader.line_num + 1
            held.clear()
    except csv.Error as error:
        if "\r" in _stripped(held[-1]):
            raise MissingInputError(
                f"{path}, line {reader.line_num}: a carriage return (CR) stands outside of quotes.",
                CONVERT_LINE_ENDS,
            ) from error
        raise MissingInputError(
            f"{path}, line {begin}: {error}.", "quoting: false in the task file, if double quotes are part of the text"
        ) from error


def _stripped(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _split(line: str, separator: str) -> list[str]:
    return _stripped(line).split(separator)
