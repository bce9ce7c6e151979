"""Details of an evaluation: measures per class, the confusion matrix, and the rows with wrong answers.

For a class c:

    precision = number of right answers c / number of answers c
    recall    = number of right answers c / number of rows with the gold label c
    F1        = 2 precision · recall / (precision + recall)

all in percent; a measure with the denominator 0 is 0. A regression has no classes. Its table of rows has every row, in
the order of falling error.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import precision_recall_fscore_support

from kdqat_cli.tasks.task import LabelledTask

Row = dict[str, object]
"""One row of a table, by column."""


class Table(NamedTuple):
    """A table."""

    columns: list[str]
    """Names of the columns, even if there are no rows."""
    rows: list[Row]
    """The rows; each has all columns."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the rows of a split, in their order.

    Attributes:
        logits: (rows, labels); for a regression (rows, 1), the predicted numbers.
        labels: (rows,), the gold class indices or numbers.
        shown: further columns that show a row to users: column → one value per row.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.generic]
    shown: dict[str, list[str]] = field(default_factory=dict)

    @property
    def predicted(self) -> NDArray[np.generic]:
        """The predicted class indices (rows,); for a regression the predicted numbers."""
        return self.logits[:, 0] if self.logits.shape[1] == 1 else self.logits.argmax(axis=1)


def tables(task: LabelledTask, answers: Answers, teacher: Answers | None = None) -> dict[str, Table]:
    """Makes the tables of a split: `wrong`, and for a classification `classes` and `confusion`.

    `confusion` has the gold and the predicted label of each row, which DVC's template `confusion` counts.

    Args:
        task: task of the rows.
        answers: the model's answers.
        teacher: a teacher's answers to the same rows, for a further column, or None.
    """
    made = {} if task.labels is None else {"classes": _classes(task, answers), "confusion": _confusion(task, answers)}
    return made | {"wrong": _wrong(task, answers, teacher)}


def _classes(task: LabelledTask, answers: Answers) -> Table:
    names = task.labels or []
    measures = precision_recall_fscore_support(
        answers.labels, answers.predicted, labels=range(len(names)), zero_division=0.0
    )
    counts = np.bincount(answers.predicted.astype(np.int64), minlength=len(names)).tolist()
    rows: list[Row] = []
    for name, count, precision, recall, f1, gold in zip(names, counts, *measures, strict=True):
        percent = {"precision": precision, "recall": recall, "f1": f1}
        row: Row = {"label": name, "rows": int(gold), "answers": count}
        rows.append(row | {key: round(100 * float(value), 4) for key, value in percent.items()})
    return Table(["label", "rows", "answers", "precision", "recall", "f1"], rows)


def _confusion(task: LabelledTask, answers: Answers) -> Table:
    names = task.labels or []
    pairs = zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True)
    return Table(["actual", "predicted"], [{"actual": names[gold], "predicted": names[found]} for gold, found in pairs])


def _wrong(task: LabelledTask, answers: Answers, teacher: Answers | None) -> Table:
    """The rows with a wrong label, in their order; for a regression all rows, in the order of falling error."""
    if task.labels is None:
        name, values = "error", np.abs(answers.predicted.astype(np.float64) - answers.labels.astype(np.float64))
        order = np.argsort(-values, kind="stable").tolist()
    else:
        name, values = "probability", np.exp(log_softmax(answers.logits.astype(np.float64), axis=1).max(axis=1))
        order = np.flatnonzero(answers.predicted != answers.labels).tolist()
    sides = {"label": answers.labels, "predicted": answers.predicted}
    sides |= {} if teacher is None else {"teacher": teacher.predicted}
    rows: list[Row] = [
        {"row": place + 1}
        | {column: texts[place] for column, texts in answers.shown.items()}
        | {side: _name(task, found[place]) for side, found in sides.items()}
        | {name: round(float(values[place]), 6)}
        for place in order
    ]
    return Table(["row", *answers.shown, *sides, name], rows)


def agreement(task: LabelledTask, answers: Answers, teacher: Answers) -> dict[str, float]:
    """Measures how far a model's answers agree with its teacher's.

    Returns:
        For a classification `teacher_agreement`, the share of rows with the same label, in percent, and `teacher_kl`,
        the mean over rows of KL(teacher ‖ model), in nats. For a regression `teacher_distance`, the mean absolute
        difference of the numbers.
    """
    ours, theirs = answers.logits.astype(np.float64), teacher.logits.astype(np.float64)
    if task.labels is None:
        return {"teacher_distance": float(np.abs(ours - theirs).mean())}
    p, q = log_softmax(theirs, axis=1), log_softmax(ours, axis=1)
    return {
        "teacher_agreement": 100 * float((answers.predicted == teacher.predicted).mean()),
        "teacher_kl": float((np.exp(p) * (p - q)).sum(axis=1).mean()),
    }


def _name(task: LabelledTask, value: object) -> object:
    number = float(value)  # type: ignore[arg-type]
    return round(number, 6) if task.labels is None else task.labels[int(number)]
