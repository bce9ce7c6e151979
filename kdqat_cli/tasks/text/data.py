"""The rows of a task, from local files or the hub. Every row is checked.

The result of every source has the columns text, pair (if the task has pairs) and label. A label is a class index in the
order of the task's labels, 1 or 0 per label (multi-label), or a number. A wrong row is refused with its file and place,
and never corrected by a guess.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import is_there, read_bytes, text_of
from kdqat_cli.hub import first_line, why_unreachable
from kdqat_cli.tasks.labels import Labels
from kdqat_cli.tasks.sources import data_folders
from kdqat_cli.tasks.text.cells import Row, cell, json_lines, json_row, parsed, table_rows, text_in
from kdqat_cli.tasks.text.schema import Columns, Hub, TextTask
from kdqat_cli.tasks.text.split import split_of
from kdqat_cli.tasks.text.tables import CONVERT_LINE_ENDS, Record, records

if TYPE_CHECKING:
    from datasets import Dataset

LARGEST_JSON = 2**28
"""Largest number of bytes of a .json file, because it is read as a whole. A .jsonl file may have any size."""


def load_split(task: TextTask, split: str, data_dir: Path | None = None) -> "Dataset":
    """Loads the rows of one split, with the columns text, pair (only for tasks with pairs) and label.

    The first source that has the split is read, in this order: `data_dir`, the folder of a user's task file, the data
    of `kdqat fetch`, the hub. The data set's `info.description` names the source, and how many bad rows were left out,
    if any.

    Args:
        task: the task.
        split: train, dev, or another split of the task.
        data_dir: the user's folder of local data in the published layouts.

    Raises:
        MissingInputError: the folder does not exist, no source has the split, a file cannot be read, or a row is wrong.
    """
    folders = data_folders(task, data_dir)
    file = task.files.get(split)
    for folder in folders:
        if file and is_there(folder / file):  # of any type: a file that cannot be read is an error, not a missing file
            rows = _read_file(folder / file, task)
            part = split if split in (task.shares or {}) else None
            return _checked(task, task.columns, rows, str(folder / file), part)
    missing = f"Task {task.name}: there is no {file or f'file of the split {split}'} in "
    missing += ", ".join(str(folder) for folder in folders)
    fix = f"--data-dir FOLDER, where FOLDER holds {file or 'the files'}"
    if task.hub is None or split not in task.hub.splits:
        raise MissingInputError(f"{missing}.", fix if task.folder or task.hub else "kdqat fetch")
    try:
        table = _load_from_hub(task.hub, split)
    except _HubError as error:
        sentence = f"{missing}, and {task.hub.path} could not be loaded from the hub: {error}."
        raise MissingInputError(sentence, fix) from error
    columns = task.hub.columns or task.columns
    source = f"{task.hub.path}, split {task.hub.splits[split]}"
    return _checked(task, columns, _hub_rows(table, columns, source), source)


def data_digest(dataset: "Dataset") -> str:
    """sha256 over the rows in their order; equal for equal rows from any source."""
    digest = hashlib.sha256()
    names = sorted(dataset.column_names)
    for values in zip(*(dataset[name][:] for name in names), strict=True):
        digest.update(json.dumps(dict(zip(names, values, strict=True))).encode())
    return digest.hexdigest()


def _checked(task: TextTask, columns: Columns, rows: Iterator[Row], source: str, part: str | None = None) -> "Dataset":
    """The rows as a data set; with `part`, only those of one of the splits that share the file."""
    from datasets import Dataset, DatasetInfo

    known = _labels(task)
    texts, pairs, labels, left_out = [], [], [], 0
    for row in rows:
        fault = row.fault or _incomplete(row, columns, task.multi_label)
        if fault and task.skip_bad_rows:
            left_out += 1
            continue
        if fault:
            raise MissingInputError(
                f"{row.where}: {fault}.",
                "that row mended, or skip_bad_rows: true in the task file, which leaves such rows out",
            )
        read = [text_in(row, column) for column in (columns.text, columns.pair) if column is not None]
        label = _label(row, columns.label, known)
        if part is not None and split_of(read, task.shares or {}) != part:
            continue
        texts.append(read[0])
        pairs += read[1:]
        labels.append(label)
    if not texts:
        of = f" of the split {part}" if part else ""
        raise MissingInputError(
            f"{source} holds no rows{of}.", "--data-dir FOLDER, where FOLDER holds a file with rows"
        )
    table = {"text": texts, **({"pair": pairs} if columns.pair else {}), "label": labels}
    source += f", its split {part}" if part else ""
    description = source + (f"; {left_out} incomplete rows left out" if left_out else "")
    return Dataset.from_dict(table, info=DatasetInfo(description=description))


def _labels(task: TextTask) -> Labels:
    return Labels(task.labels, task.range, task.multi_label, task.separator)


def _incomplete(row: Row, columns: Columns, unlabelled: bool) -> str:
    """A sentence about the missing part of a row, or None; `unlabelled`: an empty label is allowed."""
    for column in columns.used():
        value = cell(row, column)
        empty = isinstance(value, str) and not value.strip() and not (unlabelled and column == columns.label)
        if value is None or empty:
            return f"the column {column!r} is empty or missing"
    return ""


def _label(row: Row, column: str, known: Labels) -> int | float | list[float]:
    given = cell(row, column)
    label = known.read(given, row.named)
    if label is None:
        place = f"{row.where}: the label {shown(given)} in the column {column!r}"
        raise MissingInputError(f"{place} {known.fault()}.", "that label mended, or labels or range in the task file")
    return label


def raw_rows(path: Path, quoting: bool | None) -> Iterator[Row]:
    """The rows of a file without a task file; rows of a table with too many or too few cells are left out.

    Args:
        path: a file in one of the formats that a task may name.
        quoting: see `TextTask.quoting`.

    Raises:
        MissingInputError: the file cannot be read.
    """
    rows = _JSON[path.suffix](path) if path.suffix in _JSON else table_rows(path, quoting)
    return (row for row in rows if not row.fault)


def _read_file(path: Path, task: TextTask) -> Iterator[Row]:
    return _JSON[path.suffix](path) if path.suffix in _JSON else _read_table(path, task)


def _read_table(path: Path, task: TextTask) -> Iterator[Row]:
    table = records(path, task.quoting)
    header = task.header
    if header is None:
        first = next(table, None)
        if first is None:
            return
        header = first.cells
        if twice := task.columns.twice(header):
            raise MissingInputError(
                f"{path}, line {first.line}: the column {twice!r} occurs twice.", "another name for one of them"
            )
    missing = [column for column in task.columns.used() if column not in header]
    if missing:
        given, fix = ", ".join(map(repr, header))[:200], column_fix(missing[0], header)
        raise MissingInputError(f"{path} has no column {missing[0]!r}; it has {given}.", fix)
    label, known = header.index(task.columns.label), _labels(task)
    for record in table:
        line, cells, parts = record
        where = f"{path}, line {line}"
        if _takes_in_rows(record, len(header), label, known):
            raise MissingInputError(
                f"{where}: a double quote opens a cell that takes in the next rows, to line {line + len(parts) - 1}.",
                "quoting: false in the task file, if double quotes are part of the text; a .jsonl file, if the cell is "
                "right",
            )
        fault = "" if len(cells) == len(header) else f"{len(cells)} columns instead of {len(header)}"
        yield Row(where, dict(zip(header, cells, strict=False)), fault)


def column_fix(missing: str, header: list[str]) -> str:
    """The remedy for a header that lacks a column.

    Args:
        missing: the column.
        header: the cells of the header.
    """
    if any("\r" in name for name in header):
        return CONVERT_LINE_ENDS
    if header[0].startswith("sep="):
        return f"the file without its line {header[0]}"
    if len(header) == 1 and (other := next((mark for mark in ";\t,|" if mark in header[0]), None)):
        return f"cells separated by commas in a .csv and by tabs in a .tsv, in place of {other!r}"
    near = next((name for name in header if name.strip().casefold() == missing.strip().casefold()), None)
    return f"the name of that column in the task file (columns) and in the file's header{f': {near!r}' if near else ''}"


def _takes_in_rows(record: Record, width: int, label: int, known: Labels) -> bool:
    """Whether a line end inside a cell looks like the end of a row, so that a stray quote may have joined rows.

    If the cell is before the label's cell, the line end looks like the end of a row if the line ends with a label. If
    it is after the label's cell, it does if the next line begins with a label. The texts of rows that a stray quote
    joins may contain separators, so a row has at least as many cells as the header. In prose a space follows a comma;
    between cells it does not.

    Args:
        record: the lines that were read as one row.
        width: number of columns of the header.
        label: index of the label's column.
        known: labels of the task.
    """
    columns = [column for column, cell in enumerate(record.cells) for _ in range(cell.count("\n"))]
    for place, column in enumerate(columns):
        line, at = (record.parts[place], label - width) if column < label else (record.parts[place + 1], label)
        prose = any(cell.startswith(" ") for cell in line[at:][:2])
        if len(line) >= width and not prose and line[at].strip() and known.read(line[at]) is not None:
            return True
    return False


def _read_json(path: Path) -> Iterator[Row]:
    items = parsed(text_of(path, read_bytes(path, LARGEST_JSON)), str(path))
    if not isinstance(items, list):
        raise MissingInputError(
            f"{path} is not an array of rows.", "[{…}, {…}] in a .json file, or one object per line in a .jsonl file"
        )
    for number, item in enumerate(items, 1):
        yield json_row(f"{path}, item {number}", item)


_JSON = {".json": _read_json, ".jsonl": json_lines}


class _HubError(Exception):
    """Why a data set could not be loaded from the hub."""


def _load_from_hub(hub: Hub, split: str) -> "Dataset":
    import datasets

    unreachable = why_unreachable(hub.path, "dataset", hub.revision)
    if unreachable:
        datasets.config.HF_HUB_OFFLINE = True  # data that was loaded before is in the hub's cache, and needs no network
    try:
        return datasets.load_dataset(hub.path, hub.name, split=hub.splits[split], revision=hub.revision)
    except Exception as error:  # of many classes, including those of the HTTP library
        raise _HubError(unreachable or first_line(error)) from error


def _hub_rows(table: "Dataset", columns: Columns, source: str) -> Iterator[Row]:
    """Rows of a hub data set, with class names instead of indices, because the hub's order of classes may differ."""
    fields = [column.split(".")[0] for column in columns.used()]
    for field in fields:
        if field not in table.column_names:
            raise MissingInputError(f"{source} has no column {field!r}; it has {', '.join(table.column_names)}.")
    names = _class_names(table, columns.label)
    telling = names is not None and names != [str(index) for index in range(len(names))]
    for number, values in enumerate(zip(*(table[field][:] for field in fields), strict=True), 1):
        row = Row(f"{source}, row {number}", dict(zip(fields, values, strict=True)), named=telling)
        label = cell(row, columns.label)
        if names and label == -1:
            raise MissingInputError(f"{source}: its labels are hidden (-1), so nothing can be scored on it.")
        if names and isinstance(label, int):
            row.values[columns.label] = names[label]
        if names and isinstance(label, list):
            row.values[columns.label] = [names[one] if one in range(len(names)) else one for one in label]
        yield row


def _class_names(table: "Dataset", column: str) -> list[str] | None:
    """The hub's names of a column's classes; None: it has no names."""
    feature: Any = table.features
    for key in column.split("."):
        feature = feature.get(key) if isinstance(feature, dict) else None
    return getattr(getattr(feature, "feature", feature), "names", None)  # a list has a feature of its elements
