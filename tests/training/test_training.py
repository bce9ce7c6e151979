"""The optimiser, learning rates and batches of the training loop, observed from outside."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, set_seed

from kdqat_cli.config import Training
from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.rows import TaskRows, task_rows
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.loop import Loop, Trained
from kdqat_cli.training.optimizers import BertAdam
from tests.recipes import training

ROWS, BATCH, LENGTH = 40, 4, 24
STEPS, WARM = 20, 2  # 10 % of two epochs
GROUPED = 4.3  # bound of `spread`: about 6 for random batches, 3 for rows of similar length


@dataclass
class Watched:
    """Records a training: optimiser, rates and gradient norms of each step, and the tokens of each batch."""

    optimizers: list[Optimizer] = field(default_factory=list)
    rates: list[set[float]] = field(default_factory=list)
    norms: list[dict[int, float]] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)


@contextmanager
def watch(model: PreTrainedModel) -> Iterator[Watched]:
    seen = Watched()

    def at_step(optimizer: Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        seen.optimizers.append(optimizer)
        seen.rates.append({group["lr"] for group in groups})
        norms = {id(x): x.grad.norm().item() for group in groups for x in group["params"] if x.grad is not None}
        seen.norms.append(norms)

    def at_batch(module: Any, _args: Any, inputs: dict[str, Tensor]) -> None:
        if module.training:
            seen.tokens.append(inputs["input_ids"].clone())

    handles = register_optimizer_step_pre_hook(at_step), model.register_forward_pre_hook(at_batch, with_kwargs=True)
    yield seen
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def rows(tiny_encoder: Path, rated_task: Path) -> TaskRows:
    """ROWS different rows."""
    task = load_text_task(str(rated_task / "rated.yaml"))
    loaded = task_rows(task, "train", None, AutoTokenizer.from_pretrained(tiny_encoder), LENGTH)
    first = loaded.part(list(range(ROWS)))
    assert len({tuple(ids) for ids in first.rows["input_ids"]}) == ROWS
    return first


@pytest.fixture
def learner(tiny_encoder: Path) -> PreTrainedModel:
    set_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    return model


def run(model: PreTrainedModel, rows: TaskRows, settings: Training, folder: Path) -> list[dict[str, float]]:
    batches = SharedBatches.of(rows, settings, 1)
    trained = Loop(model, batches, OnLabels(), rows.score, settings, 1, folder, lambda *_: None).run()
    assert trained.steps == (settings.max_steps or STEPS // 2 * settings.epochs)
    return trained.history


def settings_with(**changes: Any) -> Training:
    return training(batch_size=BATCH, optimizer="bert-adam", padding="max_length", warmup=0.1).model_copy(
        update=changes
    )


def whole_norm(norms: dict[int, float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms.values()))


def test_bert_adam_is_used_and_nothing_else_clips(learner: PreTrainedModel, rows: TaskRows, tmp_path: Path) -> None:
    """Its gradients are those of the loss, far above such a small clip."""
    settings = settings_with(gradient_clip=1e-3, weight_decay=0.02)
    with watch(learner) as seen:
        run(learner, rows, settings, tmp_path)
    assert len(seen.optimizers) == STEPS
    optimizer = seen.optimizers[0]
    assert all(other is optimizer for other in seen.optimizers)
    assert type(optimizer) is BertAdam
    assert all(group["gradient_clip"] == 1e-3 for group in optimizer.param_groups)
    assert all(max(norms.values()) > 0.1 for norms in seen.norms)
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    decays = {names[id(x)]: group["weight_decay"] for group in optimizer.param_groups for x in group["params"]}
    assert decays.keys() == set(names.values())
    plain = {name for name, decay in decays.items() if decay == 0}
    assert plain == {name for name in decays if "bias" in name or "LayerNorm" in name}
    assert {decays[name] for name in decays.keys() - plain} == {0.02}


def test_adamw_clips_the_whole_gradient(learner: PreTrainedModel, rows: TaskRows, tmp_path: Path) -> None:
    with watch(learner) as seen:
        run(learner, rows, settings_with(optimizer="adamw", gradient_clip=1e-3), tmp_path)
    assert type(seen.optimizers[0]) is AdamW
    assert all(whole_norm(norms) == pytest.approx(1e-3, rel=1e-3) for norms in seen.norms)


@pytest.mark.parametrize("optimizer", ["bert-adam", "adamw"])
def test_the_rate_rises_from_0_and_falls_linearly_to_0(
    learner: PreTrainedModel, rows: TaskRows, optimizer: str, tmp_path: Path
) -> None:
    with watch(learner) as seen:
        history = run(learner, rows, settings_with(optimizer=optimizer, learning_rate=2e-4, eval_every=7), tmp_path)
    rises = [2e-4 * step / WARM for step in range(WARM)]
    falls = [2e-4 * (STEPS - step) / (STEPS - WARM) for step in range(WARM, STEPS)]
    assert rises[0] == 0
    assert max(falls) == falls[0] == 2e-4
    assert all(len(rates) == 1 for rates in seen.rates), "decayed or not"
    assert [next(iter(rates)) for rates in seen.rates] == pytest.approx(rises + falls, rel=1e-12)
    scored = [row["step"] for row in history if "score" in row]
    assert scored == [7, 14, STEPS], "and at the end, with any interval"


def test_a_warm_up_ends_at_a_fraction_of_a_step(learner: PreTrainedModel, rows: TaskRows, tmp_path: Path) -> None:
    """0.17 · 20 = 3.4 steps, not 4: step 3 has 3/3.4 of the peak rate, and step 4 is on the way down."""
    with watch(learner) as seen:
        run(learner, rows, settings_with(warmup=0.17, learning_rate=2e-4), tmp_path)
    rises = [2e-4 * step / 3.4 for step in range(4)]
    falls = [2e-4 * (STEPS - step) / (STEPS - 3.4) for step in range(4, STEPS)]
    assert [next(iter(rates)) for rates in seen.rates] == pytest.approx(rises + falls, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"eval_every": 7, "eval_before_end": 1}, [7, 14, STEPS - 1]),
        ({"eval_every": 5, "eval_before_end": 1}, [5, 10, 15, STEPS - 1, STEPS]),  # like the public code
        ({"eval_every": 7, "eval_before_end": 6}, [7, 14]),
        ({"eval_every": 7, "eval_before_end": 0}, [7, 14, STEPS]),
        ({"eval_every": 7, "eval_before_end": 99, "max_steps": 3}, [1]),
        ({"eval_every": None, "eval_before_end": 1}, [STEPS // 2, STEPS]),  # after each epoch
    ],
)
def test_the_last_evaluation_may_come_before_the_last_step(
    learner: PreTrainedModel, rows: TaskRows, changes: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    settings = settings_with(**changes)
    history = run(learner, rows, settings, tmp_path)
    assert [row["step"] for row in history if "score" in row] == steps
    kept = {name: values.clone() for name, values in learner.state_dict().items()}
    assert run(learner, rows, settings, tmp_path) == history, "a training that has ended is not continued"
    assert all(torch.equal(values, kept[name]) for name, values in learner.state_dict().items())


@pytest.mark.parametrize(("keep_best", "best"), [("score", 1), ("accuracy", 0)])
def test_the_best_evaluation_by_the_named_metric_is_kept(
    learner: PreTrainedModel, rows: TaskRows, keep_best: str, best: int, tmp_path: Path
) -> None:
    """The second has a better mean of accuracy and F1, the first a better accuracy; of equals the earlier is kept."""
    metrics = [(70.0, 60.0), (69.0, 90.0), (70.0, 50.0)]
    weights: list[dict[str, Tensor]] = []

    def score(model: PreTrainedModel) -> dict[str, float]:
        accuracy, f1 = metrics[len(weights)]
        weights.append({name: values.clone() for name, values in model.state_dict().items()})
        return {"score": (accuracy + f1) / 2, "f1": f1, "accuracy": accuracy}

    settings = settings_with(eval_every=7, keep_best=keep_best)
    batches = SharedBatches.of(rows, settings, 1)
    Loop(learner, batches, OnLabels(), score, settings, 1, tmp_path, lambda *_: None).run()
    assert len(weights) == 3
    for name, values in learner.state_dict().items():
        assert torch.equal(values, weights[best][name]), name
    assert not torch.equal(weights[0][name], weights[1][name])


def test_a_plateau_halves_the_rate_and_ends_the_training(
    learner: PreTrainedModel, rows: TaskRows, tmp_path: Path
) -> None:
    """The score never rises after the first evaluation: the rate halves after 11, 19 and 27; the end is after 32."""
    settings = settings_with(schedule="plateau", eval_every=1, epochs=20, learning_rate=1e-3)
    batches = SharedBatches.of(rows, settings, 1)
    assert 20 * len(batches) > 32

    def train() -> Trained:
        score = {"score": 50.0}
        return Loop(learner, batches, OnLabels(), lambda _: score, settings, 1, tmp_path, lambda *_: None).run()

    trained = train()
    assert trained.steps == 32
    rates = [row["learning_rate"] / 1e-3 for row in trained.history]
    assert [rates.count(0.5**power) for power in range(4)] == [11, 8, 8, 5]
    assert train() == trained, "a training that has ended is not continued"


def test_the_first_step_changes_no_weight(learner: PreTrainedModel, rows: TaskRows, tmp_path: Path) -> None:
    before = {name: values.clone() for name, values in learner.state_dict().items()}
    run(learner, rows, settings_with(max_steps=1), tmp_path / "one")
    assert all(torch.equal(values, before[name]) for name, values in learner.state_dict().items())
    run(learner, rows, settings_with(max_steps=2, warmup=0.5), tmp_path / "two")
    assert not all(torch.equal(values, before[name]) for name, values in learner.state_dict().items())


def lengths_of(batches: list[Tensor]) -> list[list[int]]:
    return [(ids != 0).sum(1).tolist() for ids in batches]


def spread(batches: list[Tensor]) -> float:
    """The mean difference of lengths within a batch."""
    return sum(max(lengths) - min(lengths) for lengths in lengths_of(batches)) / len(batches)


def test_static_batches_have_one_width_and_a_random_order(
    learner: PreTrainedModel, rows: TaskRows, tmp_path: Path
) -> None:
    with watch(learner) as seen:
        run(learner, rows, settings_with(), tmp_path)
    assert [tuple(ids.shape) for ids in seen.tokens] == [(BATCH, LENGTH)] * STEPS
    assert max(rows.rows["length"]) < LENGTH
    padded = sorted(ids + [0] * (LENGTH - len(ids)) for ids in rows.rows["input_ids"])
    epochs = [torch.cat(seen.tokens[start : start + STEPS // 2]).tolist() for start in (0, STEPS // 2)]
    assert [sorted(epoch) for epoch in epochs] == [padded, padded], "each row once per epoch"
    assert epochs[0] != epochs[1], "another order"
    assert spread(seen.tokens) > GROUPED


def test_otherwise_rows_of_similar_length_are_batched_together(
    learner: PreTrainedModel, rows: TaskRows, tmp_path: Path
) -> None:
    with watch(learner) as seen:
        run(learner, rows, settings_with(padding="longest"), tmp_path)
    for ids, lengths in zip(seen.tokens, lengths_of(seen.tokens), strict=True):
        assert ids.shape == (BATCH, max(lengths))
    assert len({ids.shape for ids in seen.tokens}) > 3
    assert spread(seen.tokens) < GROUPED


def test_a_training_stopped_within_a_later_epoch_continues_with_the_same_rows(
    learner: PreTrainedModel, rows: TaskRows, tmp_path: Path
) -> None:
    """Dropout draws the same numbers, too."""

    def stop(step: int, steps: int, news: str) -> None:
        if step == STEPS // 2 + 4:
            raise KeyboardInterrupt

    settings = settings_with(padding="longest", eval_every=3)
    interrupted, again = copy.deepcopy(learner), copy.deepcopy(learner)
    history = run(learner, rows, settings, tmp_path / "whole")
    batches = SharedBatches.of(rows, settings, 1)
    with pytest.raises(KeyboardInterrupt):
        Loop(interrupted, batches, OnLabels(), rows.score, settings, 1, tmp_path / "cut", stop).run()
    with watch(again) as seen:
        assert run(again, rows, settings, tmp_path / "cut") == history
    assert len(seen.tokens) == STEPS - (STEPS // 2 + 2), "from the last evaluation"
    for name, values in learner.state_dict().items():
        assert torch.equal(values, again.state_dict()[name]), name


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (99, 1), (250, 2)])
def test_the_history_has_some_hundred_rows_with_every_loss(
    learner: PreTrainedModel, rows: TaskRows, steps: int, every: int, tmp_path: Path
) -> None:
    """Each is the mean over the steps since the previous row, so that together they give the mean of all steps."""
    settings = settings_with(max_steps=steps, eval_every=45)
    with watch(learner) as seen:
        history = run(learner, rows, settings, tmp_path / "one")
    assert len(seen.optimizers) == steps
    scored = {step for step in range(1, steps + 1) if step % 45 == 0 or step == steps}
    logged = {step for step in range(1, steps + 1) if step % every == 0} | {1} | scored
    assert [row["step"] for row in history] == sorted(logged)
    assert {row["step"] for row in history if "score" in row} == scored
    assert all(row["loss"] > 0 and row["loss_labels"] == pytest.approx(row["loss"], rel=1e-6) for row in history)
    assert [row["epoch"] for row in history] == pytest.approx([row["step"] / (STEPS // 2) for row in history])


def test_epochs_are_evaluated_even_if_their_last_step_is_not_logged(
    learner: PreTrainedModel, rows: TaskRows, tmp_path: Path
) -> None:
    history = run(learner, rows, settings_with(epochs=21), tmp_path)  # 210 steps: the first and every second are logged
    assert [row["step"] for row in history if "score" in row] == list(range(10, 211, 10))
    assert [row["step"] for row in history] == [1, *range(2, 211, 2)]
    assert all("loss" in row for row in history)
