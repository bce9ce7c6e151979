"""The interface of the measures of an analysis; catalogue.py lists them.

`kdqat analyze` runs the teacher and all other models once over the same batches of dev rows, and passes the results of
each batch to every measure. A measure sums up what it needs, and makes a table at the end. The teacher is compared with
itself too; its rows of a table have the values of a perfect copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.analysis.result import Cell, Row
from kdqat_cli.networks.captures import Captures
from kdqat_cli.tasks.kind import Rows
from kdqat_cli.tasks.task import Task


@dataclass(frozen=True)
class Pair:
    """A teacher and a model that is compared with it.

    Attributes:
        task: the task of both.
        rows: the dev rows that are measured.
        chosen: numbers of these rows in the dev split.
        teacher: the teacher, in full precision and in eval mode.
        model: the model, in eval mode; it may be the teacher.
        layers: for each layer of the model, the number of its layer in the teacher; None: the networks have no
            attention layers, or it is not recorded.
        seed: seed of random numbers of a measure.
    """

    task: Task
    rows: Rows
    chosen: list[int]
    teacher: PreTrainedModel
    model: PreTrainedModel
    layers: list[int] | None
    seed: int


@dataclass(frozen=True)
class Seen:
    """The results of the teacher and of the model on one batch.

    Attributes:
        numbers: numbers (B) of the rows in the dev split.
        batch: a batch of `Rows.collate` (tasks/kind.py).
        groups: name of a group of tokens → its mask (B, L); see `Rows.token_groups`.
        teacher: captures of the teacher, one layer for each layer of the model.
        model: captures of the model.
        teacher_logits: logits of the teacher (B, C), or per token (B, L, C).
        logits: logits of the model, with the same shape.
    """

    numbers: list[int]
    batch: dict[str, Tensor]
    groups: dict[str, Tensor]
    teacher: Captures
    model: Captures
    teacher_logits: Tensor
    logits: Tensor

    @property
    def counted(self) -> Tensor:
        """The mask (B, L) of real tokens, without padding."""
        return self.batch["counted"].bool()


class Measure(Protocol):
    """Sums up the batches of one pair."""

    def add(self, seen: Seen) -> None:
        """Adds one batch; called without gradients."""

    def table(self) -> list[Row]:
        """The result; called once, after the last batch. It may compute gradients."""


@dataclass(frozen=True)
class Spec:
    """An entry of the catalogue.

    Attributes:
        about: description in one line.
        captures: fields of `Captures` that it reads.
        make: makes the measure for a pair; it returns None if the networks or the task do not have it.
        costly: whether it needs many passes over the rows; it is then taken only by name.
    """

    about: str
    captures: frozenset[str]
    make: Callable[[Pair], Measure | None]
    costly: bool = False


class Means:
    """Means of tensors over batches, one per key."""

    def __init__(self) -> None:
        """Begins without means."""
        self._sums: dict[tuple[Cell, ...], tuple[float, float]] = {}

    def add(self, key: tuple[Cell, ...], values: Tensor, mask: Tensor | None = None) -> None:
        """Adds values to the mean of `key`.

        Args:
            key: the cells of the table that identify the mean.
            values: values of any shape.
            mask: a mask that broadcasts to the shape of `values`; values at false are left out.
        """
        if mask is None:
            total, count = values.double().sum().item(), float(values.numel())
        else:
            mask = mask.expand(values.shape)
            total, count = values.double().where(mask, 0).sum().item(), float(mask.sum().item())
        before = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = before[0] + total, before[1] + count

    def rows(self, *columns: str) -> list[Row]:
        """One row per key, in the order in which the keys were added first; a mean without values is left out.

        Args:
            columns: names of the cells of a key.
        """
        return [
            {**dict(zip(columns, key, strict=True)), "value": total / count}
            for key, (total, count) in self._sums.items()
            if count
        ]
