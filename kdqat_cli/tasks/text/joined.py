"""Tables with answers: the rows of a .csv, .tsv or .jsonl file, each with a model's answer beside its own fields.

The row's own fields do not change: a line of a .jsonl file keeps its text, other rows keep their cells. The answer's
columns follow:

    .jsonl        the fields of `kdqat predict`: label or labels and probabilities, a value, a translation; or an error
    .csv, .tsv    label and probability; labels (a|b) and probabilities (0.9|0.7) of these labels; value; or translation
                  with top k: top_1, probability_1, … top_k, probability_k
                  error, which is empty if there is an answer

If the table has a column with such a name already, the names of all added columns begin with `predicted_`.
"""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import BinaryIO

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.tasks.answers import Answer, Gives, with_top
from kdqat_cli.tasks.labels import SEPARATOR
from kdqat_cli.tasks.text.cells import Row, cell, json_lines, table_rows

SUFFIXES = (".csv", ".tsv", ".jsonl")
_PREFIX = "predicted_"
_LITERAL_BREAKS = ("\t", "\n", "\r")


def rows_of(path: Path, quoting: bool | None) -> Iterator[Row]:
    """The rows of a table.

    Args:
        path: a .csv or .tsv file, whose first line names its columns, or a .jsonl file.
        quoting: see `TextTask.quoting`.

    Raises:
        MissingInputError: the file cannot be read, has no rows or no header, or a row is wrong.
    """
    for row in json_lines(path) if path.suffix == ".jsonl" else table_rows(path, quoting):
        if row.fault:
            raise MissingInputError(f"{row.where}: {row.fault}.", "as many cells as the first line has")
        yield row


class Joined:
    """Writes rows with their answers into a file."""

    def __init__(
        self, file: BinaryIO, suffix: str, quoting: bool | None, gives: Gives, top: int | None, first: Row
    ) -> None:
        """Writes the header.

        Args:
            file: the open file for the table.
            suffix: ending of the file's name, which determines the format.
            quoting: whether double quotes enclose cells of a .tsv; if not, no cell may have a tab or a line end.
            gives: kind of the model's answers.
            top: number of probabilities of each answer; None: those of all labels.
            first: the first row, which determines the columns.
        """
        self._file, self._suffix, self._gives, self._top = file, suffix, gives, top
        self._enclosed = suffix == ".csv" or bool(quoting)
        self._own = list(first.values)
        self._added = self._columns()
        self.prefix = _PREFIX if set(self._added) & set(self._own) else ""
        self._refuse_taken(first)
        if suffix != ".jsonl":
            self._write_cells([*self._own, *(self.prefix + name for name in self._added)], first.where)

    def add(self, row: Row, answer: Answer) -> None:
        """Writes a row.

        Raises:
            ConfigError: the row has a field that the first row lacks, or a cell that the format cannot represent.
        """
        self._refuse_taken(row)
        if self._suffix == ".jsonl":
            answered = with_top(answer, self._top)
            self._file.write(_line(row, {self.prefix + name: value for name, value in answered.items()}))
            return
        if other := row.values.keys() - set(self._own):
            raise ConfigError(
                f"{row.where}: the first row has no field {min(other)!r}, so the table has no such column.",
                "--out with a name that ends in .jsonl",
            )
        cells = self._answered(answer)
        own = [_cell(row, name) for name in self._own]
        self._write_cells([*own, *(cells.get(name, "") for name in self._added)], row.where)

    def _columns(self) -> list[str]:
        """The names of the added columns, without their prefix."""
        more = {"label": "probability", "labels": "probabilities"}.get(self._gives)
        if self._suffix == ".jsonl":
            return [self._gives, *(["probabilities"] if more else []), "error"]
        tops = [name for place in range(1, (self._top or 0) + 1) for name in (f"top_{place}", f"probability_{place}")]
        return [self._gives, *([more] if more else []), *tops, "error"]

    def _refuse_taken(self, row: Row) -> None:
        if taken := [name for name in self._added if self.prefix + name in row.values]:
            raise ConfigError(
                f"{row.where}: the row has a field {self.prefix + taken[0]!r}, but so is a field of the answer called.",
                "another name for that field",
            )

    def _answered(self, answer: Answer) -> dict[str, str]:
        """The cells of an answer, by the name of their column."""
        cells = {"error": answer.get("error", ""), "translation": answer.get("translation", "")}
        if "value" in answer:
            cells["value"] = str(answer["value"])
        if (probabilities := answer.get("probabilities")) is None:
            return cells
        if "labels" in answer:
            cells["labels"] = SEPARATOR.join(answer["labels"])
            cells["probabilities"] = SEPARATOR.join(str(probabilities[label]) for label in answer["labels"])
        else:
            cells |= {"label": answer.get("label", ""), "probability": str(max(probabilities.values()))}
        best = with_top(answer, self._top or 0)["probabilities"]
        for place, (label, probability) in enumerate(best.items(), 1):
            cells |= {f"top_{place}": label, f"probability_{place}": str(probability)}
        return cells

    def _write_cells(self, cells: list[str], where: str) -> None:
        separator = "," if self._suffix == ".csv" else "\t"
        line = separator.join(cells) + "\n"
        if self._enclosed:
            text = StringIO()
            # The csv module encloses a cell with a carriage return only if it writes its default line end.
            csv.writer(text, delimiter=separator).writerow(cells)
            line = text.getvalue().removesuffix("\r\n") + "\n"
        elif any(mark in text for text in cells for mark in _LITERAL_BREAKS):
            raise ConfigError(f"{where}: a cell has a tab or a line end, which a .tsv cannot hold.", "--out NAME.csv")
        try:
            self._file.write(line.encode())
        except UnicodeEncodeError as error:  # JSON can contain one half of a surrogate pair
            raise ConfigError(
                f"{where}: a field has half of a surrogate pair, which is not valid Unicode.", "--out NAME.jsonl"
            ) from error


def _line(row: Row, answer: dict[str, object]) -> bytes:
    """A line of a .jsonl file; if the row comes from a .jsonl file, the text of its own fields is copied."""
    if row.line:
        return f"{row.line.strip()[:-1].rstrip()}, {json.dumps(answer, ensure_ascii=False)[1:]}\n".encode()
    return f"{json.dumps(row.values | answer, ensure_ascii=False)}\n".encode()


def _cell(row: Row, name: str) -> str:
    value = cell(row, name) if name in row.values else None
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:  # the value that replaces a key that occurs twice in an object
        raise MissingInputError(
            f"{row.where}: the field {name!r} has a key twice.", "one of them removed, or --out NAME.jsonl"
        ) from error
