"""Chooses the rows of each training step, and shares them among the processes.

The order depends only on the seed and the epoch. So a resumed training continues with the same rows, and any number of
processes has the same rows in a step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Self

import torch
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import get_length_grouped_indices

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.objective import STAND_IN, Batch
from kdqat_cli.tasks.kind import Example, Examples, Rows


class SharedBatches:
    """The batches of each epoch; process r of n takes the rows r, r + n, r + 2n, … of a batch."""

    def __init__(
        self,
        rows: Examples,
        collate: Callable[[list[Example]], Batch],
        size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Sets the rows and their order.

        Args:
            rows: the rows of the training set.
            collate: makes a batch of rows.
            size: number of rows per step, in all processes together; the last step of an epoch may have fewer.
            seed: seed of the order.
            lengths: length of each row; rows of similar length are batched together. None: the order is random.
        """
        self._rows, self._collate, self._lengths = rows, collate, lengths
        self._size, self._seed = size, seed

    @classmethod
    def of(cls, rows: Rows, settings: Training, seed: int) -> Self:
        """The batches for the settings of a training."""
        lengths = rows.lengths if settings.padding == "longest" else None  # else all rows are padded to one length
        return cls(rows.examples, rows.collate(settings.padding), settings.batch_size, seed, lengths)

    def __len__(self) -> int:
        """The number of steps of an epoch."""
        return -(-len(self._rows) // self._size)

    def indices(self, epoch: int) -> list[list[int]]:
        """The indices of this process's rows, for each step of an epoch."""
        draw = torch.Generator().manual_seed(self._seed + epoch)
        if self._lengths is None:
            order = torch.randperm(len(self._rows), generator=draw).tolist()
        else:
            order = get_length_grouped_indices(list(self._lengths), self._size, generator=draw)
        starts = range(0, len(order), self._size)
        return [order[start + group.rank() : start + self._size : group.size()] for start in starts]

    def loader(self, epoch: int, done: int = 0) -> Iterable[Batch]:
        """The batches of an epoch, without the first `done`; each iterator draws one number from torch's generator."""
        loader: DataLoader[Example] = DataLoader(
            self._rows,  # type: ignore[arg-type]  # torch takes any rows with a length, but declares its own class
            batch_sampler=self.indices(epoch)[done:],
            collate_fn=self._batch,
            pin_memory=torch.cuda.is_available(),
        )
        return loader

    def _batch(self, rows: list[Example]) -> Batch:
        return dict(self._collate(rows)) if rows else {**self._collate([self._rows[0]]), STAND_IN: torch.ones(())}
