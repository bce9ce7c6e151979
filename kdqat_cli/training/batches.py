"""Which rows make each step of a training, and which of them are this process's.

The order depends on the seed and the epoch alone. An interrupted training therefore goes on with the rows that it
would have seen, and any number of processes sees the same rows in a step.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import get_length_grouped_indices

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.objective import STAND_IN, Batch
from kdqat_cli.tasks.kind import Rows

Row = dict[str, Any]


class SharedBatches:
    """The batches of each epoch, of which every process takes every so many-th row."""

    def __init__(
        self,
        rows: Any,
        collate: Callable[[list[Row]], Batch],
        size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Sets what they are made of.

        Args:
            rows: a dataset that gives a row at an index, and has a length.
            collate: puts rows together.
            size: rows of a step, in all processes together; the last step of an epoch may have fewer.
            seed: of the order.
            lengths: of the rows; rows of similar length are batched together. None: the order is random.
        """
        self._rows, self._collate, self._lengths = rows, collate, lengths
        self._size, self._seed = size, seed

    @classmethod
    def of(cls, rows: Rows, settings: Training, seed: int) -> Self:
        """The batches that a training's settings ask for."""
        lengths = rows.lengths if settings.padding == "longest" else None  # else all rows are equally long
        return cls(rows.examples, rows.collate(settings.padding), settings.batch_size, seed, lengths)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-len(self._rows) // self._size)

    def indices(self, epoch: int) -> list[list[int]]:
        """The rows of each step of an epoch that are this process's."""
        draw = torch.Generator().manual_seed(self._seed + epoch)
        if self._lengths is None:
            order = torch.randperm(len(self._rows), generator=draw).tolist()
        else:
            order = get_length_grouped_indices(list(self._lengths), self._size, generator=draw)
        starts = range(0, len(order), self._size)
        return [order[start + group.rank() : start + self._size : group.size()] for start in starts]

    def loader(self, epoch: int, done: int = 0) -> DataLoader[Any]:
        """The batches of an epoch, without the first `done`; each iterator draws one number from torch's generator."""
        return DataLoader(
            self._rows,
            batch_sampler=self.indices(epoch)[done:],
            collate_fn=self._batch,
            pin_memory=torch.cuda.is_available(),
        )

    def _batch(self, rows: list[Row]) -> Batch:
        return dict(self._collate(rows)) if rows else {**self._collate([self._rows[0]]), STAND_IN: True}
