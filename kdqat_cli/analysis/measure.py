"""What a measure of the analysis is; catalogue.py lists them.

`kdqat analyze` runs the teacher and every model that is compared with it over the same batches of dev rows, once, and
hands what they computed to every measure. A measure adds up what it needs and gives a table at the end. The teacher is
compared with itself as well: its rows of a table are the values of a perfect copy.
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
        task: what both classify.
        rows: the dev rows, of which some are measured.
        chosen: numbers of the rows that are measured.
        teacher: in full precision, in eval mode.
        model: the model, in eval mode; it may be the teacher.
        layers: number of the teacher's layer that each of the model's layers follows; None: the networks have no
            layers of attention, or nothing says which follows which.
        seed: of whatever a measure draws at random.
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
    """One batch, as the teacher and the model computed it.

    Attributes:
        numbers: of the batch's rows (B).
        batch: what `Rows.collate` put together (tasks/kind.py).
        groups: name of a group of tokens → its mask (B, L); see `Rows.token_groups`.
        teacher: what was captured of the teacher, in the layers that the model's follow.
        model: what was captured of the model.
        teacher_logits: (B, C), or per token (B, L, C).
        logits: the model's, likewise.
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
        """The mask (B, L) of what is no padding."""
        return self.batch["counted"].bool()


class Measure(Protocol):
    """Adds up over batches, for one pair."""

    def add(self, seen: Seen) -> None:
        """Takes one batch; torch keeps no gradients meanwhile."""

    def table(self) -> list[Row]:
        """The result; it is asked for once, after the last batch. Gradients may be taken."""


@dataclass(frozen=True)
class Spec:
    """An entry of the catalogue.

    Attributes:
        about: what it measures, in a line.
        captures: fields of `Captures` that it reads.
        make: a measure for a pair; None: it has no meaning for these networks or this task.
        costly: whether it takes many passes over the rows, so that it must be asked for by name.
    """

    about: str
    captures: frozenset[str]
    make: Callable[[Pair], Measure | None]
    costly: bool = False


class Means:
    """Means of tensors over batches, each a mean of its own."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._sums: dict[tuple[Cell, ...], tuple[float, float]] = {}

    def add(self, key: tuple[Cell, ...], values: Tensor, mask: Tensor | None = None) -> None:
        """Adds values to the mean of `key`.

        Args:
            key: the cells that name the mean.
            values: any shape.
            mask: of a shape that broadcasts to that of `values`; where it is false, a value does not count.
        """
        if mask is None:
            total, count = values.double().sum().item(), float(values.numel())
        else:
            mask = mask.expand(values.shape)
            total, count = values.double().where(mask, 0).sum().item(), float(mask.sum().item())
        before = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = before[0] + total, before[1] + count

    def rows(self, *columns: str) -> list[Row]:
        """A row per key, in the order of their first values; a mean of nothing is left out.

        Args:
            columns: names of the cells of a key.
        """
        return [
            {**dict(zip(columns, key, strict=True)), "value": total / count}
            for key, (total, count) in self._sums.items()
            if count
        ]
