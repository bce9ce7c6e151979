"""Details of an evaluation: measures per class, the confusion matrix, and the rows with wrong answers.

For a class c:

    precision = number of right answers c / number of answers c
    recall    = number of right answers c / number of rows with the gold label c
    F1        = 2 precision · recall / (precision + recall)

all in percent; a measure with the denominator 0 is 0. In a multi-label task each label is counted separately, and there
is no confusion matrix. A regression has no classes. Its table of rows has every row, the largest error first.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from sklearn.metrics import precision_recall_fscore_support

from kdqat_cli.tasks.labels import SEPARATOR, reached
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
        labels: (rows,), the gold class indices or numbers; for a multi-label task (rows, labels), 1 or 0.
        shown: further columns that show a row to users: column → one value per row.
        threshold: least probability of an answered label of a multi-label model; None: the model is not multi-label.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.generic]
    shown: dict[str, list[str]] = field(default_factory=dict)
    threshold: float | None = None

    @property
    def predicted(self) -> NDArray[np.generic]:
        """The predicted class indices (rows,); for a regression the numbers; for multi-label (rows, labels), bool."""
        if self.threshold is not None:
            return reached(self.logits, self.threshold)
        return self.logits[:, 0] if self.logits.shape[1] == 1 else self.logits.argmax(axis=1)


def tables(task: LabelledTask, answers: Answers, teacher: Answers | None = None) -> dict[str, Table]:
    """Makes the tables of a split: `wrong`; `classes`, if there are classes; `confusion`, if each row has one class.

    `confusion` has the gold and the predicted label of each row, which DVC's template `confusion` counts.

    Args:
        task: task of the rows.
        answers: the model's answers.
        teacher: a teacher's answers to the same rows, for a further column, or None.
    """
    made = {} if task.labels is None else {"classes": _classes(task, answers)}
    if task.labels is not None and not task.multi_label:
        made["confusion"] = _confusion(task, answers)
    return made | {"wrong": _wrong(task, answers, teacher)}


def _classes(task: LabelledTask, answers: Answers) -> Table:
    names = task.labels or []
    predicted = answers.predicted
    measures = precision_recall_fscore_support(answers.labels, predicted, labels=range(len(names)), zero_division=0.0)
    found = predicted.nonzero()[1] if task.multi_label else predicted.astype(np.int64)
    counts = np.bincount(found, minlength=len(names)).tolist()
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
    """The rows with a wrong label, in their order; for a regression all rows, the largest error first."""
    if task.labels is None:
        name, values = "error", np.abs(answers.predicted.astype(np.float64) - answers.labels.astype(np.float64))
        order = np.argsort(-values, kind="stable").tolist()
    else:
        name, values = "probability", _probabilities(answers)
        wrong = answers.predicted != answers.labels
        order = np.flatnonzero(wrong.any(axis=1) if task.multi_label else wrong).tolist()
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


def _probabilities(answers: Answers) -> NDArray[np.float64]:
    """The probability of each row's answer (rows,); for a multi-label model, the product over all labels."""
    logits = answers.logits.astype(np.float64)
    if answers.threshold is None:
        logs = log_softmax(logits, axis=1).max(axis=1)
    else:
        logs = log_expit(np.where(answers.predicted, logits, -logits)).sum(axis=1)
    found: NDArray[np.float64] = np.exp(logs)
    return found


def agreement(task: LabelledTask, answers: Answers, teacher: Answers) -> dict[str, float]:
    """Measures how far a model's answers agree with its teacher's.

    Returns:
        For a classification `teacher_agreement`, the share of rows with the same label or labels, in percent, and
        `teacher_kl`, the mean over rows of KL(teacher ‖ model), in nats; for a multi-label task it is the sum over the
        labels. For a regression `teacher_distance`, the mean absolute difference of the numbers.
    """
    ours, theirs = answers.logits.astype(np.float64), teacher.logits.astype(np.float64)
    if task.labels is None:
        return {"teacher_distance": float(np.abs(ours - theirs).mean())}
    same = answers.predicted == teacher.predicted
    if task.multi_label:
        same = same.all(axis=1)
        # A label and its absence are the two classes of a Bernoulli distribution each.
        theirs, ours = (np.concatenate([log_expit(side), log_expit(-side)], axis=1) for side in (theirs, ours))
    else:
        theirs, ours = (log_softmax(side, axis=1) for side in (theirs, ours))
    return {
        "teacher_agreement": 100 * float(same.mean()),
        "teacher_kl": float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()),
    }


def _name(task: LabelledTask, value: object) -> object:
    if task.multi_label:
        names = task.labels or []
        return SEPARATOR.join(name for name, found in zip(names, value, strict=True) if found)  # type: ignore[call-overload]
    number = float(value)  # type: ignore[arg-type]
    return round(number, 6) if task.labels is None else task.labels[int(number)]
