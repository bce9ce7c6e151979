"""A task as data: what every kind of task has in its YAML file.

A task file says where rows come from, what the answers are, and which metric is the headline. What a kind has beside
that stands in its own schema (text/schema.py, image/schema.py, translation/schema.py). `LabelledTask` is the base of
kinds whose answer is one class, any number of labels, or one number per row.
"""

from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from kdqat_cli.config import MetricName, Section, Training
from kdqat_cli.errors import ConfigError
from kdqat_cli.tasks.labels import SEPARATOR, plain

SUFFIXES = (".yaml", ".yml")
CORRELATIONS = {"pearson", "spearman"}
_OF_LABEL_SETS = {"accuracy", "micro_f1", "macro_f1"}  # metrics of rows with any number of labels


class Hosted(NamedTuple):
    """A task in the words of the model hub, for the header of a model card."""

    pipeline: str | None
    """The hub's name of what a model of the task does."""
    languages: list[str]
    """Codes of the rows' languages."""
    dataset: str | None = None
    """Id of the data set on the hub."""
    config: str | None = None
    """Configuration within the data set."""
    split: str = "dev"
    """Name of the split that models are scored on."""


class Task(Section):
    """One task, as its YAML file tells it; the base of every kind's schema."""

    kind: str = "text"
    """What a row is: text, or another kind that `registry.py` knows."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """The task's name: that of its file."""
    title: str
    """What the task is, in one line."""
    metric: str
    """The headline score; with a plus, the mean of the two."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """Language of the rows, as a code of two or three letters; the model card names it."""
    folder: Path | None = Field(default=None, exclude=True)
    """Folder of a user's task file; set by load_task, never in the file."""

    @property
    def file(self) -> Path | None:
        """A user's task file, where it is there; None: the task is packaged."""
        files = [self.folder / f"{self.name}{ending}" for ending in SUFFIXES] if self.folder else []
        return next((path for path in files if path.is_file()), None)

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        return ["dev"]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the headline's first."""
        return self.metric.split("+")

    @property
    def answers(self) -> str:
        """What `kdqat ls tasks` shows of the answers."""
        return "-"

    @property
    def hosted(self) -> Hosted:
        """The task in the words of the model hub."""
        return Hosted(None, [self.language] if self.language else [])

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """What a teacher of the task begins with.

        Args:
            encoder: the option `--encoder`, or None.
            network: the option `--network`, or None.
            default: the encoder that params.yaml names.

        Raises:
            ConfigError: an option has no meaning for the task, or the one that it needs is missing.
        """
        if encoder is not None:
            raise ConfigError(f"--encoder has no meaning for task {self.name}; it trains a network.", "--network NAME")
        if network is None:
            raise ConfigError(f"Task {self.name} names no network to train.", "kdqat ls networks, then --network NAME")
        return network

    @property
    def row(self) -> dict[str, object]:
        """What `kdqat ls tasks` shows of a row: its size, and the file of dev."""
        return {"rows": "-", "files": "-"}

    def faults(self) -> list[str]:
        """What the types alone do not tell of a task file, one sentence each."""
        return []


class LabelledTask(Task):
    """A task that asks for one class, any number of labels, or one number per row."""

    takes_label_sets: ClassVar[bool] = False
    """Whether a task of the kind may be multi-label."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """Class names in the order of the model's outputs. Files hold a name or, where no name is a number, its index,
    counted from 0."""
    multi_label: bool = False
    """Whether a row has any number of the labels, none included. A row's label is then a list in a JSONL file, and in
    other files a cell with a vertical bar between labels (a|b); an empty cell is no label."""
    range: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Smallest and largest label of a regression task."""
    metric: Literal["accuracy", "matthews", "f1+accuracy", "micro_f1", "macro_f1", "pearson+spearman", "pearson"]
    """The headline score; with a plus, the mean of the two."""
    also: list[MetricName] = Field(default_factory=list)
    """Metrics that are reported beside the headline."""

    @property
    def regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return self.range is not None

    @property
    def num_labels(self) -> int:
        """Outputs of the model: one per class, or 1 for regression."""
        return len(self.labels) if self.labels else 1

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the headline's first."""
        return list(dict.fromkeys([*super().metrics, *self.also]))

    @property
    def answers(self) -> str:
        """What `kdqat ls tasks` shows of the answers."""
        if self.multi_label:
            return f"any of {self.num_labels}"
        return "number" if self.regression else str(self.num_labels)

    def faults(self) -> list[str]:
        """See `Task.faults`."""
        faults = super().faults()
        if (self.labels is None) == (self.range is None):
            faults.append("exactly one of labels (classification) and range (regression) must be given.")
        names = [plain(label) for label in self.labels or []]
        if len(set(names)) < len(names):
            faults.append("labels: a name occurs twice.")
        if "" in names:
            faults.append("labels: a name is empty.")
        if self.range and not self.range[0] < self.range[1]:
            faults.append("range: the smallest label must come first.")
        if self.multi_label and not self.takes_label_sets:
            faults.append(f"multi_label: a row of the kind {self.kind} has one class.")
        if self.multi_label and self.labels is None:
            faults.append("multi_label: labels must be given.")
        if self.multi_label and (barred := [name for name in names if SEPARATOR in name]):
            faults.append(f"labels: {barred[0]} has a vertical bar, which stands between labels.")
        return faults + [fault for metric in self.metrics if (fault := self._misfit(metric))]

    def _misfit(self, metric: str) -> str | None:
        if (metric in CORRELATIONS) != self.regression:
            kind = "regression" if self.regression else "classification"
            return f"metric: {metric} does not fit a {kind}."
        if self.multi_label and metric not in _OF_LABEL_SETS:
            return f"metric: {metric} needs one label per row; multi_label takes {', '.join(sorted(_OF_LABEL_SETS))}."
        if metric == "micro_f1" and not self.multi_label:
            return "metric: micro_f1 is for multi_label; with one label per row it is the accuracy."
        if metric == "f1" and self.num_labels > 2:
            return "metric: f1 needs two labels; macro_f1 takes more."
        return None


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


def label_config(task: LabelledTask) -> dict[str, object]:
    """The head's part of config.json for a task."""
    if task.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    labels = task.labels or []
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": f"{'multi' if task.multi_label else 'single'}_label_classification",
    }
