"""init: a project from a file of rows, a teacher's folder, a known task, or a packaged pipeline."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdqat_cli.config import parse
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.projects.guess import Given, guess
from kdqat_cli.projects.label_sets import SEPARATORS
from kdqat_cli.projects.project import (
    Choice,
    brought_project,
    pipeline_names,
    refuse_existing,
    task_project,
    task_text,
    write_project,
)
from kdqat_cli.tasks.records import recorded_task, refuse_quantized
from kdqat_cli.tasks.registry import USER_TASKS, load_text_task, task_names
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.schema import FILE_FORMATS, TextTask
from kdqat_cli.tasks.text.split import plain_text, split_of
from kdqat_cli.yaml12 import parse_yaml

_FEWEST = 10
"""Smallest number of dev rows for a meaningful score."""
_SUFFIXES = ", ".join(FILE_FORMATS)


class Wanted(NamedTuple):
    """The source of a new project."""

    source: str | None = None
    """A file of rows, or the folder of a teacher."""
    task: str | None = None
    """An existing task."""
    pipeline: str | None = None
    """A packaged pipeline."""
    name: str | None = None
    """Name of the new task; None: the name of the file."""
    skip_bad_rows: bool = False
    """Whether incomplete rows of the file are left out."""


def init(wanted: Wanted, given: Given, choice: Choice, dry: bool = False) -> dict[str, object]:
    """Writes the files of a project into the working folder.

    Args:
        wanted: the source of the project.
        given: facts about the file of rows from the user.
        choice: the first settings of the project.
        dry: write nothing.

    Returns:
        The facts that were found, and the files.

    Raises:
        ConfigError: the columns or labels of the file are not clear, or a file would be replaced.
        MissingInputError: the source cannot be read, or has too few rows.
    """
    for source in (choice.teacher, choice.encoder):
        if source is not None and source != "embedded":
            refuse_absent(source, None)
    if choice.teacher is not None:
        refuse_quantized(choice.teacher, choice.teacher, "a teacher", "--teacher with the model that it was made from")
    if wanted.pipeline is not None:
        found: dict[str, object] = {"pipeline": wanted.pipeline}
        files = brought_project(wanted.pipeline, choice)
    elif wanted.source is None or Path(wanted.source).is_dir():
        task = _known_task(wanted, choice)
        found = {"task": task.name, "title": task.title}
        files = task_project(task, choice)
    else:
        found, files = _from_rows(Path(wanted.source), wanted, given, choice)
    refuse_existing(files)
    written = sorted(files) if dry else write_project(files)
    return {**found, "would_write" if dry else "written": [str(path) for path in written]}


def check_wanted(wanted: Wanted, given: Given, choice: Choice) -> Choice:
    """Checks that options fit each other. Returns the choice, with the teacher if the source is one.

    Raises:
        ConfigError: they do not.
    """
    folder = wanted.source is not None and Path(wanted.source).is_dir()
    beginnings = [wanted.source if not folder else None, wanted.task, wanted.pipeline]
    if sum(beginning is not None for beginning in beginnings) > 1:
        raise ConfigError("A file of rows, --task and --pipeline are three ways to begin; one is enough.")
    if not any((wanted.source, wanted.task, wanted.pipeline)):
        raise ConfigError(
            "Nothing to begin with: give a file of rows, the folder of a teacher, --task or --pipeline.",
            "kdqat init tickets.csv, or kdqat init --pipeline " + pipeline_names()[-1],
        )
    rows = wanted.source is not None and not folder
    if not rows and (any(value is not None for value in given) or wanted.name or wanted.skip_bad_rows):
        raise ConfigError("Options about columns, rows and the name apply only to a file of rows.")
    if given.pair is not None and given.text is None:
        raise ConfigError("--pair-column needs --text-column.", "--text-column NAME")
    if folder and choice.teacher is not None:
        raise ConfigError(f"Two teachers are given: {wanted.source} and {choice.teacher}.", "one of them")
    choice = choice._replace(teacher=wanted.source) if folder else choice
    if choice.teacher is not None and (choice.encoder or wanted.pipeline):
        fix = "teacher: {model: …} under settings in params.yaml" if wanted.pipeline else "one of them"
        raise ConfigError("--teacher replaces the encoder, and is of one task.", fix)
    return choice


def _known_task(wanted: Wanted, choice: Choice) -> TextTask:
    """The task that --task names, or that the teacher's record names."""
    name = wanted.task
    if name is None:
        folder = str(choice.teacher)
        name = recorded_task(folder, "kdqat init with the folder of a model")
        if name is None:
            raise ConfigError(
                f"{folder} does not say what it was trained on.",
                f"kdqat init DATA.csv --teacher {folder}, or kdqat init --task TASK --teacher {folder}",
            )
    task = load_text_task(name)
    if task.file is not None and task.file.resolve().parent != USER_TASKS.resolve():
        raise ConfigError(f"A pipeline takes tasks by name, not {name}.", f"{task.file} and its data in {USER_TASKS}/")
    return task


def _from_rows(path: Path, wanted: Wanted, given: Given, choice: Choice) -> tuple[dict[str, object], dict[Path, str]]:
    """The facts about a file, and the files of its project."""
    if path.suffix not in FILE_FORMATS:
        raise ConfigError(f"{path} must end in one of {_SUFFIXES}.", f"a file of rows that ends in {FILE_FORMATS[0]}")
    path = _plain_path(path)
    name = wanted.name or re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_") or "mine"
    if name in task_names():
        raise ConfigError(f"{name} is the name of a packaged task.", "--name with another name")
    with _with_options():
        found = guess(path, given)
    text = task_text(name, path, found, given.quoting, wanted.skip_bad_rows)
    place = USER_TASKS / f"{name}.yaml"
    task = parse(TextTask, parse_yaml(text, str(place)), "--name" if wanted.name else str(place))
    # Its file will be in tasks/, which may not exist yet.
    here = task.model_copy(update={"files": dict.fromkeys(task.files, str(path.absolute()))})
    with _with_options():
        counts = _counted(path, here)
    told: dict[str, object] = {"task": name, "text": found.columns.text, "pair": found.columns.pair}
    several = None if found.labels is None else found.separator is not None
    told |= {"label": found.columns.label, "multi_label": several, "separator": found.separator}
    told |= {"range": found.range} | counts | {"max_length": found.max_length}
    doubted = [one for one in found.labels or [] if found.separator is None and any(mark in one for mark in SEPARATORS)]
    if doubted and given.several is None:
        told["remark"] = f"{doubted[0]!r} is taken for one label; --multi-label separates it"
    files = {place: text, **task_project(task.model_copy(update={"folder": USER_TASKS}), choice)}
    return {key: value for key, value in told.items() if value is not None}, files


@contextmanager
def _with_options() -> Iterator[None]:
    """Names this command's options in errors whose remedy is a key of a task file, which does not exist yet."""
    try:
        yield
    except MissingInputError as error:
        if not (error.fix and "in the task file" in error.fix):
            raise
        options = "--quoting, --no-quoting and --skip-bad-rows write these keys"
        raise MissingInputError(error.sentence, f"{error.fix}; {options}") from error


def _plain_path(path: Path) -> Path:
    """A path relative to the working folder if it is inside, else the absolute path."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


def _counted(path: Path, task: TextTask) -> dict[str, object]:
    """The number of rows of each split and of each label.

    Raises:
        MissingInputError: there are too few rows to train or to score.
    """
    shares = task.shares or {}
    whole = load_split(task.model_copy(update={"shares": None}), "train")
    texts = list(zip(*(whole[name][:] for name in ("text", "pair") if name in whole.column_names), strict=True))
    splits = [split_of(row, shares) for row in texts]
    rows = Counter(splits)
    if rows["dev"] < _FEWEST:
        raise MissingInputError(
            f"{path} has {len(texts)} rows, of which {rows['dev']} would be for dev; {_FEWEST} are needed.",
            "more rows, or a task file with a file per split (docs/training.md, Tasks)",
        )
    told: dict[str, object] = {"rows": {split: rows[split] for split in shares}}
    if task.labels:
        sets = [_indices(label) for label in whole["label"][:]]
        trained = {one for labels, split in zip(sets, splits, strict=True) if split == "train" for one in labels}
        _refuse_rare(path, task.labels, trained)
        counts = Counter(one for labels in sets for one in labels)
        told["labels"] = {name: counts[index] for index, name in enumerate(task.labels)}
        if task.multi_label:
            sizes = Counter(min(len(labels), 2) for labels in sets)
            told |= {"rows_without_label": sizes[0], "rows_with_several_labels": sizes[2]}
    repeated = len(texts) - len({tuple(sorted(map(plain_text, row))) for row in texts})
    return told | ({"repeated_texts": repeated} if repeated else {})


def _indices(label: int | list[float]) -> list[int]:
    """The indices of a row's labels."""
    return [index for index, one in enumerate(label) if one] if isinstance(label, list) else [label]


def _refuse_rare(path: Path, names: list[str], trained: set[int]) -> None:
    absent = [name for index, name in enumerate(names) if index not in trained]
    if absent:
        raise MissingInputError(
            f"{path}: the label {absent[0]!r} is so rare that train has no row with it.",
            "more rows with it, or the file without it",
        )
