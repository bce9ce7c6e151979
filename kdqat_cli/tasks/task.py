"""The fields that the YAML files of all kinds of tasks have.

A task file names the source of the rows, the possible answers, and the headline metric. Each kind has its own schema
with further fields (text/schema.py, image/schema.py, translation/schema.py). `LabelledTask` is the base of the kinds
whose answer is one class, any number of labels, or one number per row.
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
    """A task's fields on the model hub, for the header of a model card."""

    pipeline: str | None
    """The hub's name of the kind of task, for example text-classification."""
    languages: list[str]
    """Codes of the rows' languages."""
    dataset: str | None = None
    """Id of the data set on the hub."""
    config: str | None = None
    """Configuration of the data set."""
    split: str = "dev"
    """Name of the split that models are scored on."""


class Task(Section):
    """The content of a task file; the base of every kind's schema."""

    kind: str = "text"
    """Kind of the rows: text, or another kind of `registry.py`."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Name of the task; the name of its file must be the same."""
    title: str
    """Description of the task, in one line."""
    metric: str
    """The headline score; with a plus, the mean of the two."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """Language of the rows, as a code of two or three letters, for the model card."""
    folder: Path | None = Field(default=None, exclude=True)
    """Folder of a user's task file; set by load_task, not part of the file."""

    @property
    def file(self) -> Path | None:
        """Path of a user's task file, if it exists; None: the task is packaged."""
        files = [self.folder / f"{self.name}{ending}" for ending in SUFFIXES] if self.folder else []
        return next((path for path in files if path.is_file()), None)

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        return ["dev"]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics; those of the headline are first."""
        return self.metric.split("+")

    @property
    def answers(self) -> str:
        """The answers in the table of `kdqat ls tasks`, for example the number of classes."""
        return "-"

    @property
    def hosted(self) -> Hosted:
        """The task's fields on the model hub."""
        return Hosted(None, [self.language] if self.language else [])

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """The encoder or network that the training of a teacher starts from.

        Args:
            encoder: the option `--encoder`, or None.
            network: the option `--network`, or None.
            default: the encoder that params.yaml names.

        Raises:
            ConfigError: an option has no meaning for the task, or an option that the task needs is missing.
        """
        if encoder is not None:
            raise ConfigError(f"--encoder has no meaning for task {self.name}; it trains a network.", "--network NAME")
        if network is None:
            raise ConfigError(f"Task {self.name} names no network to train.", "kdqat ls networks, then --network NAME")
        return network

    @property
    def row(self) -> dict[str, object]:
        """Further columns in the table of `kdqat ls tasks`: the form of a row, and a file."""
        return {"rows": "-", "files": "-"}

    def faults(self) -> list[str]:
        """Errors in a task file that the types of its fields do not find, one sentence each."""
        return []


class LabelledTask(Task):
    """A task with one class, any number of labels, or one number per row."""

    takes_label_sets: ClassVar[bool] = False
    """Whether a task of the kind may be multi-label."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """Class names in the order of the model's outputs. Files contain names or, if no name is a number, indices from
    0."""
    multi_label: bool = False
    """Whether a row may have any number of labels, or none. The label of a row is then a list in a JSONL file, and in
    other files a cell with a vertical bar between labels (a|b). An empty cell means no label."""
    range: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Smallest and largest label of a regression task."""
    metric: Literal["accuracy", "matthews", "f1+accuracy", "micro_f1", "macro_f1", "pearson+spearman", "pearson"]
    """The headline score; with a plus, the mean of the two."""
    also: list[MetricName] = Field(default_factory=list)
    """Further metrics to report."""

    @property
    def regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return self.range is not None

    @property
    def num_labels(self) -> int:
        """Number of outputs of the model: one per class, or 1 for a regression."""
        return len(self.labels) if self.labels else 1

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics; those of the headline are first."""
        return list(dict.fromkeys([*super().metrics, *self.also]))

    @property
    def answers(self) -> str:
        """See `Task.answers`."""
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
    """Refuses a training whose `keep_best` is a metric that the task does not report.

    Args:
        task: the task.
        section: name of the section of the settings, `teacher` or `student`, for the message.
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
    """The fields of config.json that a classification head for the task needs."""
    if task.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    labels = task.labels or []
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": f"{'multi' if task.multi_label else 'single'}_label_classification",
    }
