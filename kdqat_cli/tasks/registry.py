"""Tasks as data: one YAML file a task, packaged or the user's own.

A task file says where rows come from (the hub, local files in the published layout, or both), which columns hold
text and label, what the labels are, and which metric is the headline. `data.py` reads the rows, `metrics.py` scores.
"""

import difflib
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdqat_cli.config import MetricName, Section, Training, parse
from kdqat_cli.errors import ConfigError
from kdqat_cli.files import is_there, names_in
from kdqat_cli.tasks.labels import plain
from kdqat_cli.yaml12 import read_yaml

USER_TASKS = Path("tasks")
_SUFFIXES = (".yaml", ".yml")
FILE_FORMATS = (".tsv", ".txt", ".csv", ".jsonl", ".json")
CORRELATIONS = {"pearson", "spearman"}


class Columns(Section):
    """Names of the columns that are read; dots lead into nested JSON."""

    text: str
    """Column of the text, or of a pair's first text."""
    pair: str | None = None
    """Column of a pair's second text; absent: the task has single texts."""
    label: str
    """Column of the label."""

    def used(self) -> list[str]:
        """The columns in the order text, pair, label."""
        return [column for column in (self.text, self.pair, self.label) if column is not None]

    def twice(self, header: list[str]) -> str | None:
        """The first column that is read and that a header names twice, so that nobody knows which is meant."""
        return next((column for column in self.used() if header.count(column) > 1), None)


class Hub(Section):
    """Where a task lies on the model hub."""

    path: str
    """The data set's id, with its namespace."""
    name: str | None = None
    """Configuration within the data set."""
    revision: str | None = None
    """Branch, tag or commit; absent: the main branch."""
    splits: dict[str, str]
    """The hub's name of each of our splits."""
    columns: Columns | None = None
    """The hub's columns, where they differ from the local files'."""


class Task(Section):
    """One task, as its YAML file tells it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """The task's name: that of its file."""
    title: str
    """What the task is, in one line."""
    hub: Hub | None = None
    """The task on the model hub; absent: local files only."""
    files: dict[str, str] = Field(default_factory=dict)
    """Per split, a file relative to the data folder or, for a user's task, to the task file's own folder."""
    quoting: bool | None = None
    """Whether double quotes enclose a cell in the tab or comma separated files, which may then hold separators and line
    ends. Absent: they do in a .csv file; a cell of a .tsv or .txt file that begins with one is refused."""
    header: list[str] | None = None
    """Column names of tab or comma separated files that have no header line."""
    columns: Columns
    """Columns of the local files, and of the hub unless it names its own."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """Class names in the order of the model's outputs. Files hold a name or, where no name is a number, its index,
    counted from 0."""
    range: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Smallest and largest label of a regression task."""
    metric: Literal["accuracy", "matthews", "f1+accuracy", "pearson+spearman", "pearson"]
    """The headline score; with a plus, the mean of the two."""
    also: list[MetricName] = Field(default_factory=list)
    """Metrics that are reported beside the headline."""
    max_length: int = Field(gt=2)
    """Length in tokens that a row is cut to."""
    skip_bad_rows: bool = False
    """Whether incomplete rows are left out instead of refused."""
    folder: Path | None = Field(default=None, exclude=True)
    """Folder of a user's task file; set by load_task, never in the file."""

    @property
    def file(self) -> Path | None:
        """A user's task file, where it is there; None: the task is packaged."""
        files = [self.folder / f"{self.name}{ending}" for ending in _SUFFIXES] if self.folder else []
        return next((path for path in files if path.is_file()), None)

    @property
    def regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return self.range is not None

    @property
    def pairs(self) -> bool:
        """Whether a row has two texts."""
        return self.columns.pair is not None

    @property
    def num_labels(self) -> int:
        """Outputs of the model: one a class, or 1 for regression."""
        return len(self.labels) if self.labels else 1

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        known = self.files or (self.hub.splits if self.hub else {})
        return ["dev", *(split for split in known if split not in ("train", "dev"))]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the headline's first."""
        return list(dict.fromkeys([*self.metric.split("+"), *self.also]))


def task_names() -> list[str]:
    """Names of the packaged tasks."""
    folder = resources.files("kdqat_cli") / "tasks"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def user_task_names() -> list[str]:
    """Names of the tasks in the folder tasks/ of the working folder; hidden files there are no tasks."""
    paths = [Path(name) for name in names_in(USER_TASKS) if not name.startswith(".")]
    return sorted({path.stem for path in paths if path.suffix in _SUFFIXES})


def load_task(name: str) -> Task:
    """A task by name (packaged, or tasks/NAME.yaml of the working folder) or by the path of its YAML file.

    Raises:
        ConfigError: an unknown name, a name of two tasks, or errors in the file, all at once.
        MissingInputError: no such file, or it cannot be read.
    """
    if name.endswith(_SUFFIXES):
        return _read_own(Path(name))
    own = [path for suffix in _SUFFIXES if is_there(path := USER_TASKS / f"{name}{suffix}")]
    packaged = name in task_names()
    if len(own) + packaged > 1:
        given = " and ".join([*(["a packaged task"] if packaged else []), *map(str, own)])
        raise ConfigError(f"Two tasks are called {name}: {given}.", f"rename yours (file and name), or --task {own[0]}")
    if own:
        return _read_own(own[0])
    if not packaged:
        raise _unknown(name)
    with resources.as_file(resources.files("kdqat_cli") / "tasks" / f"{name}.yaml") as path:
        return _read_task(path, f"task {name}")


def _read_own(path: Path) -> Task:
    return _read_task(path, str(path)).model_copy(update={"folder": path.parent})


def check_keep_best(task: Task, section: str, training: Training) -> None:
    """Refuses a training that keeps its best model by a metric that the task does not report.

    Args:
        task: the task.
        section: of the settings, `teacher` or `student`; for the message.
        training: that section.

    Raises:
        ConfigError: the task does not report the metric.
    """
    reported = ["score", *task.metrics]
    if training.keep_best not in reported:
        raise ConfigError(
            f"{section}.keep_best is {training.keep_best}, but task {task.name} reports {', '.join(reported)}.",
            f"--set {section}.keep_best=score",
        )


def _unknown(name: str) -> ConfigError:
    known = [*task_names(), *user_task_names()]
    close = difflib.get_close_matches(name, known, n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return ConfigError(f"There is no task {name!r}{hint}", fix="kdqat ls tasks")


def _read_task(path: Path, where: str) -> Task:
    task = parse(Task, read_yaml(path), where)
    faults = _faults(task, path.stem)
    if faults:
        raise ConfigError("\n".join(f"{where}: {fault}" for fault in faults))
    return task


def _faults(task: Task, stem: str) -> list[str]:
    """What the types alone do not tell of a task file."""
    faults = []
    if task.name != stem:
        faults.append(f"name is {task.name}, but the file's name is {stem}.")
    if (task.labels is None) == (task.range is None):
        faults.append("exactly one of labels (classification) and range (regression) must be given.")
    names = [plain(label) for label in task.labels or []]
    if len(set(names)) < len(names):
        faults.append("labels: a name stands twice.")
    if "" in names:
        faults.append("labels: a name is empty.")
    if twice := task.columns.twice(task.header or []):
        faults.append(f"header: the column {twice!r} stands twice.")
    if task.range and not task.range[0] < task.range[1]:
        faults.append("range: the smallest label must come first.")
    for metric in task.metrics:
        if (metric in CORRELATIONS) != task.regression:
            faults.append(f"metric: {metric} does not fit a {'regression' if task.regression else 'classification'}.")
        if metric == "f1" and task.num_labels > 2:
            faults.append("metric: f1 needs two labels; macro_f1 takes more.")
    return faults + _source_faults(task)


def _source_faults(task: Task) -> list[str]:
    faults = []
    if not task.files and not task.hub:
        faults.append("files or hub must be given.")
    sources = {"files": task.files} if task.files else {}
    if task.hub:
        sources["hub.splits"] = task.hub.splits
    for where, splits in sources.items():
        missing = [split for split in ("train", "dev") if split not in splits]
        if missing:
            faults.append(f"{where}: {' and '.join(missing)} must be given.")
    for split, file in task.files.items():
        if Path(file).suffix not in FILE_FORMATS:
            faults.append(f"files.{split}: {file} must end in one of {', '.join(FILE_FORMATS)}.")
    if task.hub and task.hub.columns and (task.hub.columns.pair is None) != (task.columns.pair is None):
        faults.append("hub.columns: pair must be given here and in columns, or in neither.")
    return faults
