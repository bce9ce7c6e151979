"""Agreement of a model with its teacher, and calibration of its probabilities.

    agreement     share of equal answers, number of rows that differ, share of right answers, mean KL(teacher ‖ model)
                  in nats, calibration error
    disagreement  the rows on which the two answers differ, at most 200 of them
    calibration   rows, grouped by the probability of the answer: mean probability, and share of right answers

The calibration error is Σ over ten bins of equal width of (rows in the bin / rows) · |share right − mean probability|
(Naeini et al., AAAI 2015). If an answer is one number, agreement is the mean distance of the numbers, and there is no
calibration. If an answer is a class per token, every token is counted, and a row of `disagreement` has the share of
tokens with different answers. A multi-label model gives one answer per row and label: whether the label's probability
reaches the threshold that is recorded with this model (tasks/labels.py). The probability of the answer "no" is that of
not having the label.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.analysis.measure import Measure, Pair, Seen, Spec
from kdqat_cli.analysis.result import DIFFERING, Cell, Row
from kdqat_cli.distillation.objective import are_sets
from kdqat_cli.tasks.labels import SEPARATOR, reached
from kdqat_cli.tasks.task import LabelledTask
from kdqat_cli.tasks.text.head import threshold_of

BINS = 10
_SHOWN = 200  # largest number of rows of `disagreement`
_NO_LABEL = -100


@dataclass(frozen=True)
class _Answered:
    """Answers to one batch. A row of the tensors is one answer: to a row of the task, or to a token or label in it.

    Attributes:
        numbers: numbers of the rows of the task.
        labels: the right answers.
        teacher: the teacher's logits.
        model: the model's logits.
        taught: the teacher's answers, as class indices; of a model that answers with a number, 0.
        said: the model's answers.
    """

    numbers: Tensor
    labels: Tensor
    teacher: Tensor
    model: Tensor
    taught: Tensor
    said: Tensor

    def differing(self) -> list[int]:
        """Numbers, in order, of the rows of the task on which the model's answer is not the teacher's."""
        other = (self.model != self.teacher).flatten() if self.model.size(-1) == 1 else self.taught != self.said
        return sorted(set(self.numbers[other].tolist()))

    def of(self, number: int) -> "_Answered":
        """The answers to one row of the task."""
        mine = self.numbers == number
        return _Answered(*(getattr(self, one.name)[mine] for one in fields(self)))


class _Answers:
    """Collects the answers of all batches; a subclass makes the table."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._batches: list[_Answered] = []

    def add(self, seen: Seen) -> None:
        numbers, labels = torch.tensor(seen.numbers), seen.batch["labels"].cpu()
        teacher, model = seen.teacher_logits.float().cpu(), seen.logits.float().cpu()
        if model.dim() == 3:
            real = labels != _NO_LABEL
            numbers = numbers[:, None].expand_as(labels)[real]
            labels, teacher, model = labels[real], teacher[real], model[real]
        if are_sets(labels):
            taught, said = _reached(teacher, self.pair.teacher), _reached(model, self.pair.model)
            numbers = numbers[:, None].expand_as(labels).flatten()
            labels, teacher, model = labels.long().flatten(), _two_classes(teacher), _two_classes(model)
        else:
            taught, said = teacher.argmax(-1), model.argmax(-1)
        self._batches.append(_Answered(numbers, labels, teacher, model, taught, said))

    def answered(self) -> _Answered:
        return _Answered(
            *(torch.cat([getattr(batch, one.name) for batch in self._batches]) for one in fields(_Answered))
        )

    def name(self, answer: int) -> Cell:
        """The name of a class; its index if it has none."""
        labels = self._labels()
        return labels[answer] if labels else answer

    def names(self, answers: Tensor) -> Cell:
        """The names of the labels of a multi-label row."""
        return SEPARATOR.join(name for name, found in zip(self._labels() or [], answers.tolist(), strict=True) if found)

    def _labels(self) -> list[str] | None:
        task = self.pair.task
        return task.labels if isinstance(task, LabelledTask) else None


def _reached(logits: Tensor, model: PreTrainedModel) -> Tensor:
    """Of logits (B, C), whether each label reaches the model's own threshold: (B · C), 1 or 0."""
    threshold = threshold_of(model.config)
    assert threshold is not None  # every loaded multi-label model has one
    return torch.from_numpy(reached(logits.numpy(), threshold)).long().flatten()


def _two_classes(logits: Tensor) -> Tensor:
    """Logits (B, C), whose sigmoid is a probability → logits (B · C, 2), whose softmax has it and the rest."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(0, 1)


def calibration(probabilities: Tensor, answers: Tensor, labels: Tensor) -> list[Row]:
    """Groups rows by the probability of their answer.

    Args:
        probabilities: (rows, labels).
        answers: (rows,), class indices.
        labels: (rows,), the right ones.

    Returns:
        For each bin with rows: its upper end, the number of rows, the mean probability, and the share of right answers.
    """
    chosen = probabilities.double().gather(-1, answers[:, None])[:, 0]
    right = (answers == labels).double()
    place = (chosen * BINS).ceil().long().clamp(1, BINS)
    table: list[Row] = []
    for number in range(1, BINS + 1):
        inside = place == number
        if inside.any():
            probability, share = float(chosen[inside].mean()), float(right[inside].mean())
            table.append({"to": number / BINS, "rows": int(inside.sum()), "probability": probability, "right": share})
    return table


def calibration_error(table: list[Row]) -> float:
    """The expected calibration error, from 0 to 1, of the result of `calibration`."""
    total = sum(float(row["rows"] or 0) for row in table)
    return (
        sum(float(row["rows"] or 0) * abs(float(row["right"] or 0) - float(row["probability"] or 0)) for row in table)
        / total
    )


class _Agreement(_Answers):
    def table(self) -> list[Row]:
        found = self.answered()
        if found.model.size(-1) == 1:
            distance = (found.model - found.teacher).double().abs().mean()
            return [{"statistic": "distance of the answers", "value": float(distance)}]
        theirs, ours = found.teacher.double().log_softmax(-1), found.model.double().log_softmax(-1)
        same = (found.taught == found.said).double().mean()
        right = (found.said == found.labels).double().mean()
        error = calibration_error(calibration(ours.exp(), found.said, found.labels))
        return [
            {"statistic": "equal answers", "value": float(same)},
            {"statistic": DIFFERING, "value": len(found.differing())},
            {"statistic": "right answers", "value": float(right)},
            {"statistic": "KL divergence", "value": float((theirs.exp() * (theirs - ours)).sum(-1).mean())},
            {"statistic": "calibration error", "value": error},
        ]


class _Disagreement(_Answers):
    def table(self) -> list[Row]:
        found = self.answered()
        rows = [self._row(number, found.of(number)) for number in found.differing()]
        rows.sort(key=lambda row: -float(row["differs"] or 0))
        return rows[:_SHOWN]

    def _row(self, number: int, one: _Answered) -> Row:
        row: Row = {"row": number}
        task = self.pair.task
        if one.model.size(-1) == 1:
            answers = {"label": one.labels, "teacher": one.teacher, "answer": one.model}
            row |= {name: float(values.flatten()[0]) for name, values in answers.items()}
            return row | {"differs": abs(float(row["answer"] or 0) - float(row["teacher"] or 0))}
        sides = {"label": one.labels, "teacher": one.taught, "answer": one.said}
        if isinstance(task, LabelledTask) and task.multi_label:
            row |= {name: self.names(values) for name, values in sides.items()}
        elif len(one.said) == 1:
            row |= {name: self.name(int(values)) for name, values in sides.items()}
            row |= {"probability": float(one.model.double().softmax(-1).max())}
        return row | {"differs": float((one.taught != one.said).double().mean())}


class _Calibration(_Answers):
    def table(self) -> list[Row]:
        found = self.answered()
        return calibration(found.model.double().softmax(-1), found.said, found.labels)


def _calibration(pair: Pair) -> Measure | None:
    one_number = isinstance(pair.task, LabelledTask) and pair.task.regression
    return None if one_number else _Calibration(pair)


SPECS = {
    "agreement": Spec("equal answers, divergence of the probabilities, calibration error", frozenset(), _Agreement),
    "disagreement": Spec("the rows on which model and teacher answer differently", frozenset(), _Disagreement),
    "calibration": Spec("probability of the answers beside the share of right ones", frozenset(), _calibration),
}
