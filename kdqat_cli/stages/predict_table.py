"""predict --out: a table → the same table with a model's answers in additional columns.

Rows are read, answered and written in batches, so that memory does not grow with the table. The result appears when it
is complete; an existing file is never replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.files import is_there
from kdqat_cli.packing.packed_file import packed_record
from kdqat_cli.record import Record
from kdqat_cli.stages.predict import packed_file
from kdqat_cli.store.writing import refuse_target, writing
from kdqat_cli.tasks.answers import Answerer, with_threshold
from kdqat_cli.tasks.labels import SEPARATOR
from kdqat_cli.tasks.registry import load_task
from kdqat_cli.tasks.text.cells import Row, cell, text_in
from kdqat_cli.tasks.text.joined import SUFFIXES, Joined, rows_of
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.texts import Text, require_fit

_HELD = 2**22
"""Largest number of characters of texts in one batch; a single row may have more."""


@dataclass(frozen=True)
class Tables:
    """The files and options of the command.

    Attributes:
        file: file with the rows.
        out: file for the rows with their answers.
        text: column of the text; None: the column of the model's task, else `text`.
        pair: column of a pair's second text; None: the column of the task, else `pair`.
        top: largest number of labels with probabilities; None: see tasks/text/joined.py.
        threshold: see `with_threshold`.
        batch_size: number of rows that are computed together.
    """

    file: Path
    out: Path
    text: str | None = None
    pair: str | None = None
    top: int | None = None
    threshold: float | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class Answered:
    """The result of `predict_table`.

    Attributes:
        rows: number of rows.
        without: number of rows without an answer.
        prefix: prefix of the names of the answer's columns.
    """

    rows: int
    without: int
    prefix: str


def check_tables(tables: Tables) -> None:
    """Refuses files that are not tables, and an existing result, before a model is loaded.

    Raises:
        ConfigError: a file name does not end like a table's, or the result exists.
        MissingInputError: the result cannot be written.
    """
    for option, path in (("--file", tables.file), ("--out", tables.out)):
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{option} {path}: a table's name ends in {', '.join(SUFFIXES)}.", f"{option} NAME.csv")
    if is_there(tables.out):
        raise ConfigError(
            f"{tables.out} exists already; answers never replace a file.",
            f"--out with another path, or rm {tables.out}",
        )
    refuse_target(tables.out)


def predict_table(runner: Answerer, model: str, tables: Tables) -> Answered:
    """Answers the rows of a table.

    If the model has no answer to a row, the row has an error instead; see `predict`.

    Args:
        runner: see `open_model`.
        model: folder, file or hub id of the model.
        tables: the files and options, after `check_tables`.

    Raises:
        ConfigError: the model cannot read such rows, or the format of the result cannot represent them.
        MissingInputError: the table cannot be read, lacks a column or has a wrong row, or the disk is full.
    """
    _check_labels(runner, tables)
    task = _task_of(model)
    reading = _Reading(runner.pairs, tables, task)
    quoting = task.quoting if task else None
    rows = rows_of(tables.file, quoting)
    first = next(rows, None)
    if first is None:
        raise MissingInputError(f"{tables.file} holds no rows.", "--file with a table that has some")
    count, without = 0, 0
    with writing(tables.out) as file:
        joined = Joined(file, tables.out.suffix, quoting, runner.gives, reading.top(runner.labels), first)
        for batch in reading.batches(chain([first], rows)):
            answers = runner.answers([text for _, text in batch])
            for (row, _), answer in zip(batch, answers, strict=True):
                joined.add(row, with_threshold(answer, tables.threshold))
            count += len(batch)
            without += sum("error" in answer for answer in answers)
    return Answered(count, without, joined.prefix)


def _check_labels(runner: Answerer, tables: Tables) -> None:
    barred = next((label for label in runner.labels or [] if SEPARATOR in label), None)
    if runner.gives == "labels" and barred and tables.out.suffix != ".jsonl":
        raise ConfigError(
            f"The label {barred!r} has a vertical bar, which stands between labels in a table.", "--out NAME.jsonl"
        )


def _task_of(model: str) -> TextTask | None:
    """The text task that a model was made for; None: it is not recorded, or its file is missing."""
    record = _record(model)
    name = record.task_file or record.task
    try:
        task = load_task(name) if name else None
    except KdqatError:
        return None
    return task if isinstance(task, TextTask) else None


def _record(model: str) -> Record:
    packed = packed_file(model)
    if packed is not None:
        return packed_record(packed)
    from kdqat_cli.tasks.records import recorded  # imports torch, which such a model needs anyway

    return recorded(model)


class _Reading:
    """How a model reads rows."""

    def __init__(self, pairs: bool | None, tables: Tables, task: TextTask | None) -> None:
        columns = task.columns if task else None
        self._pairs, self._tables = pairs, tables
        self._text = tables.text or (columns.text if columns else "text")
        self._pair = tables.pair
        if pairs and self._pair is None:
            self._pair = (columns.pair if columns else None) or "pair"

    def top(self, labels: list[str] | None) -> int | None:
        """The number of labels with probabilities in an answer."""
        top = self._tables.top
        return None if top is None else min(top, len(labels or []))

    def batches(self, rows: Iterator[Row]) -> Iterator[list[tuple[Row, Text]]]:
        """Batches of rows that are computed together, each with its text."""
        batch: list[tuple[Row, Text]] = []
        held = 0
        for row in rows:
            text = require_fit(self._given(row), self._pairs, row.where)
            size = len(text.text) + len(text.pair or "")
            if batch and (len(batch) == self._tables.batch_size or held + size > _HELD):
                yield batch
                batch, held = [], 0
            batch.append((row, text))
            held += size
        yield batch

    def _given(self, row: Row) -> Text:
        return Text(
            self._one(row, self._text, "--text-column"),
            None if self._pair is None else self._one(row, self._pair, "--pair-column"),
        )

    def _one(self, row: Row, column: str, option: str) -> str:
        if cell(row, column) is None:
            names = ", ".join(map(repr, row.values))[:200]
            raise MissingInputError(f"{row.where}: there is no column {column!r}, but {names}.", f"{option} NAME")
        return text_in(row, column)
