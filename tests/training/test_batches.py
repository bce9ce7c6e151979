"""The rows of each step: equal for any number of processes, in an order that depends only on seed and epoch."""

from itertools import chain

import pytest
import torch
from datasets import Dataset

from kdqat_cli import group
from kdqat_cli.distillation.objective import STAND_IN, Batch
from kdqat_cli.training.batches import SharedBatches

COUNT = 89  # eleven batches of 8, and one row
LENGTHS = [number * 7 % 11 + 3 for number in range(COUNT)]
ROWS = Dataset.from_dict({"length": LENGTHS})


def collate(rows: list[dict[str, int]]) -> Batch:
    return {"length": torch.tensor([row["length"] for row in rows])}


def batches(grouped: bool, epoch: int = 0, seed: int = 1, rank: int = 0, processes: int = 1) -> list[list[int]]:
    shared = SharedBatches(ROWS, collate, 8, seed, LENGTHS if grouped else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "rank", lambda: rank)
        patch.setattr(group, "size", lambda: processes)
        out = shared.indices(epoch)
    assert len(out) == len(shared) == 12
    return out


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_occurs_once_per_epoch_in_a_new_order(grouped: bool) -> None:
    orders = [list(chain(*batches(grouped, epoch, seed))) for epoch, seed in ((0, 1), (1, 1), (0, 5))]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("grouped", [False, True])
def test_random_numbers_of_other_code_do_not_matter(grouped: bool) -> None:
    torch.manual_seed(0)
    before = batches(grouped, 3)
    torch.manual_seed(1)
    assert batches(grouped, 3) == before


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch(grouped: bool, processes: int) -> None:
    shares = [batches(grouped, 2, rank=rank, processes=processes) for rank in range(processes)]
    for whole, *parts in zip(batches(grouped, 2), *shares, strict=True):
        assert sorted(whole) == sorted(chain(*parts))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert shares[-1][-1] == [], "one process gets no share of the last row"


def test_rows_of_similar_length_are_batched_together() -> None:
    def spread(grouped: bool) -> int:
        return sum(max(lengths) - min(lengths) for rows in batches(grouped) if (lengths := [LENGTHS[i] for i in rows]))

    assert spread(True) < 0.8 * spread(False)


def test_a_process_without_a_row_gets_a_marked_row(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedBatches([7, 8, 9], lambda rows: {"ids": torch.tensor(rows)}, 2, 1)
    monkeypatch.setattr(group, "rank", lambda: 1)
    monkeypatch.setattr(group, "size", lambda: 2)
    first, last = shared.loader(epoch=0)
    assert first.keys() == {"ids"}
    assert last.keys() == {"ids", STAND_IN}
    assert last["ids"].tolist() == [7]


def test_a_resumed_epoch_has_the_remaining_batches() -> None:
    shared = SharedBatches(ROWS, collate, 8, 1, LENGTHS)
    whole, left = ([batch["length"].tolist() for batch in shared.loader(epoch=1, done=done)] for done in (0, 5))
    assert left == whole[5:]
