"""What a model says of each row of a split, and what follows: measures per class, and the rows that it gets wrong.

Of a class c, with rows counted by (gold label, predicted label):

    precision = right answers c / all answers c
    recall    = right answers c / all rows of c
    F1        = 2 precision · recall / (precision + recall)

in percent; where a denominator is 0, so is the measure. Of a multi-label task each label is counted by itself, and
there is no confusion of one with another. Of a regression there are no classes: every row stands in the table of rows,
the farthest off first.
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
    """A table for people and programs."""

    columns: list[str]
    """Their names, also where there are no rows."""
    rows: list[Row]
    """Each with these columns."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the rows of a split, in their order.

    Attributes:
        logits: (rows, labels); of a regression (rows, 1), the number.
        labels: (rows,), the gold class indices or numbers; of a multi-label task (rows, labels), 1 or 0.
        shown: what people see of a row: column → one value per row.
        threshold: least probability of a label in an answer of a multi-label model; None: it is another one.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.generic]
    shown: dict[str, list[str]] = field(default_factory=dict)
    threshold: float | None = None

    @property
    def predicted(self) -> NDArray[np.generic]:
        """Class indices (rows,); of a regression the numbers; of a multi-label model (rows, labels), true or false."""
        if self.threshold is not None:
            return reached(self.logits, self.threshold)
        return self.logits[:, 0] if self.logits.shape[1] == 1 else self.logits.argmax(axis=1)


def tables(task: LabelledTask, answers: Answers, teacher: Answers | None = None) -> dict[str, Table]:
    """The tables of a split: `wrong`; `classes`, if there are classes; and `confusion`, if each row has one class.

    `confusion` has each row's gold and predicted label, as DVC's template of that name counts them.

    Args:
        task: of the rows.
        answers: the model's.
        teacher: another model's answers to the same rows, which then stand beside, or None.
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
    """The rows with a wrong label, in their order; of a regression all rows, the farthest off first."""
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
    """Of each row's answer (rows,); for a multi-label model, of exactly these labels: the product over all labels."""
    logits = answers.logits.astype(np.float64)
    if answers.threshold is None:
        logs = log_softmax(logits, axis=1).max(axis=1)
    else:
        logs = log_expit(np.where(answers.predicted, logits, -logits)).sum(axis=1)
    found: NDArray[np.float64] = np.exp(logs)
    return found


def agreement(task: LabelledTask, answers: Answers, teacher: Answers) -> dict[str, float]:
    """How far a model answers as its teacher does.

    Returns:
        Of classes `teacher_agreement`, the rows with the same label in percent, and `teacher_kl`, the mean over rows of
        KL(teacher ‖ model) in nats. Of a multi-label task the rows with the same labels, and the sum of each label's
        KL. Of a regression `teacher_distance`, the mean absolute difference.
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
