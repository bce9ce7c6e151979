"""Which rows make each step of a training, and which of them are this process's.

The order depends on the seed and the epoch alone: neither on what dropout draws meanwhile, so that a training that
was interrupted goes on with the rows that it would have seen, nor on how many processes share a step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

Row = dict[str, Any]
Inputs = dict[str, Any]

STAND_IN = "stand_in"
"""Stands in the inputs of a process for which its step has no row left: it computes along, and counts for nothing."""


class SharedBatches(Sampler[list[int]]):
    """The batches of each epoch, of which every process takes every so many-th row."""

    def __init__(self, rows: Dataset, size: int, grouped: bool, seed: int, rank: int = 0, processes: int = 1) -> None:
        """Sets what they are made of.

        Args:
            rows: with the column `length`.
            size: rows of a step, in all processes together; the last step of an epoch may have fewer.
            grouped: rows of like length meet.
            seed: of the order.
            rank: this process's place.
            processes: how many share a step.
        """
        self.lengths = list(rows["length"])
        self.size, self.grouped, self.seed = size, grouped, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The loop's hook: which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.grouped:
            order = get_length_grouped_indices(self.lengths, self.size, generator=draw)
        else:
            order = torch.randperm(len(self.lengths), generator=draw).tolist()
        for start in range(0, len(order), self.size):
            yield order[start + self.rank : start + self.size : self.processes]


class Collator:
    """Rows → inputs, through `pad`; without a row those of `example`, marked as a stand-in."""

    def __init__(self, pad: Callable[[list[Row]], Inputs], example: Row) -> None:
        self.pad, self.example = pad, example

    def __call__(self, rows: list[Row]) -> Inputs:
        """The inputs (B, L) by name."""
        return self.pad(rows) if rows else {**self.pad([self.example]), STAND_IN: True}
