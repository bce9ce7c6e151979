"""The checkpoints of a training: it continues to the same bits, and never from an incomplete checkpoint."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.rows import TaskRows, task_rows
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.loop import Loop
from tests.recipes import training

LENGTH = 24
Result = tuple[list[dict[str, float]], dict[str, Tensor]]
Start = Callable[..., Result]


class KilledError(BaseException):
    """Raised in place of a signal."""


@pytest.fixture(scope="module")
def rows(tiny_encoder: Path, rated_task: Path) -> TaskRows:
    """40 rows, so an epoch has 5 steps."""
    task = load_text_task(str(rated_task / "rated.yaml"))
    return task_rows(task, "train", None, AutoTokenizer.from_pretrained(tiny_encoder), LENGTH).part(list(range(40)))


@pytest.fixture
def start(tiny_encoder: Path, rows: TaskRows, tmp_path: Path) -> Start:
    def run(folder: str, until: int | None = None, **changes: Any) -> Result:
        """Trains, or is killed after the given number of steps."""

        def progress(step: int, steps: int, news: str) -> None:
            if step == until and not news:
                raise KilledError

        set_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
        settings = training(**{"epochs": 3} | changes)
        batches = SharedBatches.of(rows, settings, 1)
        history = Loop(model, batches, OnLabels(), rows.score, settings, 1, tmp_path / folder, progress).run().history
        return history, model.state_dict()

    return run


def same(one: Result, other: Result) -> bool:
    return one[0] == other[0] and all(torch.equal(values, other[1][name]) for name, values in one[1].items())


@pytest.mark.parametrize("changes", [{"max_steps": 13}, {"max_steps": 13, "eval_every": 4}, {"eval_every": 4}])
def test_a_training_that_ended_is_not_continued(start: Start, changes: dict[str, int]) -> None:
    """The command may have been killed after the last checkpoint, before it wrote its results."""
    first = start("one", **changes)
    assert [row["step"] for row in first[0]][-1] == changes.get("max_steps", 15)
    assert same(start("one", **changes), first)


@pytest.mark.parametrize(("padding", "every"), [("longest", 2), ("max_length", 2), ("longest", None)])
def test_wherever_a_training_is_killed_it_continues_to_the_same_bits(
    start: Start, padding: str, every: int | None
) -> None:
    """Within an epoch, at its end, in a continued training, and before the first checkpoint."""
    whole = start("whole", eval_every=every, padding=padding, epochs=2)
    for until in (1, 5, 7, 10):
        with pytest.raises(KilledError):
            start("cut", until=until, eval_every=every, padding=padding, epochs=2)
    assert same(start("cut", eval_every=every, padding=padding, epochs=2), whole)


def test_incomplete_checkpoints_are_neither_used_nor_kept(start: Start, tmp_path: Path) -> None:
    whole = start("whole", eval_every=4)
    with pytest.raises(KilledError):
        start("cut", until=10, eval_every=4)
    marks = sorted(path.parent.name for path in (tmp_path / "cut").glob("*/complete"))
    assert "checkpoint-8" in marks
    assert len(marks) <= 2, "the last and the best"
    half = tmp_path / "cut/checkpoint-9"
    shutil.copytree(tmp_path / "cut/checkpoint-8", half)
    (half / "complete").unlink()
    (half / "optimizer.bin").write_bytes((half / "optimizer.bin").read_bytes()[:1000])
    assert same(start("cut", eval_every=4), whole)
    assert not half.exists()


def test_a_moved_training_still_knows_its_best_checkpoint(start: Start, tmp_path: Path) -> None:
    whole = start("whole", eval_every=4)
    with pytest.raises(KilledError):
        start("cut", until=14, eval_every=4)
    (tmp_path / "cut").rename(tmp_path / "moved")
    assert same(start("moved", eval_every=4), whole)
