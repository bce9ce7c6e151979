"""Rows of a task, from local files or the hub, checked one by one.

Whatever the source, the result has the columns text, pair (where the task has pairs) and label: a class index in the
order of the task's labels, or a number. A wrong row is refused with its file and place, never guessed at.
"""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.hub import first_line, why_unreachable
from kdqat_cli.tasks.registry import Columns, Hub, Task

if TYPE_CHECKING:
    from datasets import Dataset

ASSETS = Path("assets")
"""Where `kdqat fetch` puts the embedded encoder and data."""
DATA_DIR_VARIABLE = "KDQAT_DATA_DIR"
LONGEST_CELL = 2**24
"""Characters of one cell; the standard library's own limit, 2**17, is short for documents."""


class _Row(NamedTuple):
    """One row as its source holds it."""

    where: str
    """File and place, for messages."""
    values: dict[str, Any]
    fault: str = ""
    """What is wrong with the row's shape."""


def resolve_data_dir(option: str | None, params_value: str | None) -> Path | None:
    """The folder of the user's data: the option, else the variable KDQAT_DATA_DIR, else the value of params.yaml."""
    value = option or os.environ.get(DATA_DIR_VARIABLE) or params_value
    return Path(value).expanduser() if value else None


def load_split(task: Task, split: str, data_dir: Path | None = None) -> "Dataset":
    """The rows of one split, with the columns text, pair (only of tasks with pairs) and label.

    The first that has the split is read: `data_dir`, the folder of a user's task file, what `kdqat fetch` brought,
    the hub. The data set's `info.description` names that source and how many bad rows were left out, if any.

    Args:
        task: the task.
        split: train, dev, or another of the task's splits.
        data_dir: the user's folder of local data in the published layouts.

    Raises:
        MissingInputError: no such folder, no source has the split, or a row is wrong.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise MissingInputError(f"There is no data folder {data_dir}.", fix="--data-dir FOLDER")
    folders = [folder for folder in (data_dir, task.folder, ASSETS / "data") if folder is not None]
    file = task.files.get(split)
    for folder in folders:
        if file and (folder / file).is_file():
            return _checked(task, task.columns, _read_file(folder / file, task), str(folder / file))
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
    """sha256 over the rows in their order; equal for equal rows, wherever they were read from."""
    digest = hashlib.sha256()
    names = sorted(dataset.column_names)
    for values in zip(*(dataset[name][:] for name in names), strict=True):
        digest.update(json.dumps(dict(zip(names, values, strict=True))).encode())
    return digest.hexdigest()


def _checked(task: Task, columns: Columns, rows: Iterator[_Row], source: str) -> "Dataset":
    from datasets import Dataset, DatasetInfo

    texts, pairs, labels, left_out = [], [], [], 0
    for row in rows:
        fault = row.fault or _incomplete(row, columns)
        if fault and task.skip_bad_rows:
            left_out += 1
            continue
        if fault:
            raise MissingInputError(f"{row.where}: {fault}.")
        texts.append(_text(row, columns.text))
        if columns.pair:
            pairs.append(_text(row, columns.pair))
        labels.append(_label(row, columns.label, task))
    if not texts:
        raise MissingInputError(f"{source} holds no rows.")
    table = {"text": texts, **({"pair": pairs} if columns.pair else {}), "label": labels}
    description = source + (f"; {left_out} incomplete rows left out" if left_out else "")
    return Dataset.from_dict(table, info=DatasetInfo(description=description))


def _incomplete(row: _Row, columns: Columns) -> str:
    for column in columns.used():
        value = _cell(row.values, column)
        if value is None or not str(value).strip():
            return f"the column {column!r} is empty or missing"
    return ""


def _cell(values: dict[str, Any], column: str) -> Any:
    """A row's value, where a dotted name leads into nested dictionaries."""
    if column in values:
        return values[column]
    value: Any = values
    for key in column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(row: _Row, column: str) -> str:
    value = _cell(row.values, column)
    if not isinstance(value, str):
        raise MissingInputError(f"{row.where}: the column {column!r} holds {shown(value)}, which is not text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can hold one half of a surrogate pair
        raise MissingInputError(f"{row.where}: the column {column!r} is not valid Unicode.") from error
    return value


def _label(row: _Row, column: str, task: Task) -> int | float:
    value = _cell(row.values, column)
    place = f"{row.where}: the label {shown(value)} in the column {column!r}"
    if task.range is not None:
        lowest, highest = task.range
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not lowest <= number <= highest:
            raise MissingInputError(f"{place} is not a number from {lowest:g} to {highest:g}.")
        return number
    names = task.labels or []
    known = {str(index): index for index in range(len(names))} | {name: index for index, name in enumerate(names)}
    index = known.get(str(value).strip())
    if index is None:
        raise MissingInputError(f"{place} is unknown; the labels are {', '.join(names)}.")
    return index


def _read_file(path: Path, task: Task) -> Iterator[_Row]:
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".jsonl":
        return _read_json_lines(path)
    return _read_table(path, task)


def _read_table(path: Path, task: Task) -> Iterator[_Row]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(
        _lines(path),
        delimiter="," if path.suffix == ".csv" else "\t",
        quoting=csv.QUOTE_MINIMAL if task.quoting else csv.QUOTE_NONE,
        strict=True,
    )
    line = 1
    try:
        header = task.header or next(reader, None)
        if header is None:
            return
        missing = [column for column in task.columns.used() if column not in header]
        if missing:
            raise MissingInputError(f"{path} has no column {missing[0]!r}; it has {', '.join(header)[:200]}.")
        line = reader.line_num + 1
        for cells in reader:
            fault = "" if len(cells) == len(header) else f"{len(cells)} columns instead of {len(header)}"
            if cells:
                yield _Row(f"{path}, line {line}", dict(zip(header, cells, strict=False)), fault)
            line = reader.line_num + 1  # of the row to come: a quoted cell may span lines
    except csv.Error as error:
        raise MissingInputError(f"{path}, line {line}: {error}.") from error


def _read_json_lines(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _json_row(where, _parse_json(line, where))


def _read_json(path: Path) -> Iterator[_Row]:
    items = _parse_json("".join(_lines(path)), str(path))
    if not isinstance(items, list):
        raise MissingInputError(f"{path} is not an array of rows.")
    for number, item in enumerate(items, 1):
        yield _json_row(f"{path}, item {number}", item)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MissingInputError(f"{where} is not valid JSON: {error}.") from error


def _json_row(where: str, item: Any) -> _Row:
    if not isinstance(item, dict):
        raise MissingInputError(f"{where} is not an object with columns.")
    return _Row(where, item)


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise MissingInputError(f"{path}, line {number} is not UTF-8 text.") from error


class _HubError(Exception):
    """Why a data set could not be loaded from the hub."""


def _load_from_hub(hub: Hub, split: str) -> "Dataset":
    import datasets

    unreachable = why_unreachable(hub.path, "dataset", hub.revision)
    if unreachable:
        datasets.config.HF_HUB_OFFLINE = True  # what was loaded before is in the hub's cache, and needs no network
    try:
        return datasets.load_dataset(hub.path, hub.name, split=hub.splits[split], revision=hub.revision)
    except Exception as error:  # of many classes, the HTTP library's among them
        raise _HubError(unreachable or first_line(error)) from error


def _hub_rows(table: "Dataset", columns: Columns, source: str) -> Iterator[_Row]:
    """Rows of a hub data set; class indices become the hub's class names, whose order may differ from ours."""
    fields = [column.split(".")[0] for column in columns.used()]
    for field in fields:
        if field not in table.column_names:
            raise MissingInputError(f"{source} has no column {field!r}; it has {', '.join(table.column_names)}.")
    names = getattr(table.features[columns.label.split(".")[0]], "names", None)
    for number, values in enumerate(zip(*(table[field][:] for field in fields), strict=True), 1):
        row = _Row(f"{source}, row {number}", dict(zip(fields, values, strict=True)))
        label = row.values.get(columns.label)
        if names and label == -1:
            raise MissingInputError(f"{source}: its labels are hidden (-1), so nothing can be scored on it.")
        if names and label is not None:
            row.values[columns.label] = names[label]
        yield row
