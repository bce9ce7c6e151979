"""Runs the training loop on a task: arguments, resume state, history."""

import csv
import shutil
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from safetensors.torch import load_model
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
from transformers.utils import SAFE_WEIGHTS_NAME

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.store.writing import sync_tree
from kdqat_cli.training.batches import Collator, SharedBatches
from kdqat_cli.training.memory import keep_freed_memory
from kdqat_cli.training.optimizers import optimizer_of
from kdqat_cli.training.trainer import EncoderTrainer

Progress = Callable[[int, int, str], None]
"""Called after each step with the step, the number of steps, and what is new (or nothing)."""

_RESUMED = "continues from here"
_WHOLE = "whole"  # stands in a checkpoint that was written to its end
_LOGS = 100  # of a training, at least, where it has as many steps; at most twice as many, and one per evaluation


class _Report(TrainerCallback):  # type: ignore[misc]
    """Tells how far the training is, sets its last evaluation, and makes whole checkpoints of what Trainer writes."""

    def __init__(self, progress: Progress, eval_before_end: int) -> None:
        self.progress = progress
        self.eval_before_end = eval_before_end

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            self.progress(state.global_step, state.max_steps, _RESUMED)
        if state.best_global_step:  # wherever the folder was when the checkpoint was written
            state.best_model_checkpoint = str(_checkpoint(Path(args.output_dir), state.best_global_step))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps, "")
        if args.eval_strategy == IntervalStrategy.STEPS:
            if state.global_step == max(state.max_steps - self.eval_before_end, 1):  # wherever the interval falls
                control.should_evaluate = control.should_save = True
            elif state.global_step == state.max_steps:  # where Trainer evaluates in any case
                control.should_evaluate = state.global_step % state.eval_steps == 0
        control.should_log |= control.should_evaluate

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # An evaluation's row has the losses of the steps before it, and a checkpoint no half-filled mean.
        control.should_log |= control.should_evaluate

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        group.meet()  # each process has a file in it: where its dropout stands
        if not group.leads():
            return
        resume = Path(args.output_dir)
        written = _checkpoint(resume, state.global_step)
        sync_tree(written)
        (written / _WHOLE).touch()
        sync_tree(written)
        # Only now: Trainer itself would remove the one before while this one still can be lost.
        _keep(resume, {written, _checkpoint(resume, state.best_global_step)})

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, f"dev score {kwargs['metrics']['eval_score']:.2f}")


class Trained(NamedTuple):
    """What a training did."""

    steps: int
    """Optimiser steps."""
    history: list[dict[str, float]]
    """One row for every evaluation and for some hundred steps: step, epoch, loss and its terms (means over the steps
    since the row before), and for an evaluation the dev metrics."""


def train(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    score: Callable[[PreTrainedModel], dict[str, float]],
    settings: Training,
    max_length: int,
    seed: int,
    resume: Path,
    progress: Progress,
    teacher: PreTrainedModel | None = None,
    loss: DistillationLoss | None = None,
) -> Trained:
    """Trains a model in place and leaves it at its best evaluation on dev.

    Args:
        model: the teacher to fine-tune, or the student.
        rows: what to train on, tokenised.
        tokenizer: pads the batches.
        score: gives the dev metrics of a model; `settings.keep_best` names the one that is maximised.
        settings: how to train.
        max_length: tokens that the rows were cut to.
        seed: of the order of rows and of dropout.
        resume: folder of this very training's checkpoints; the last one is continued.
        progress: is told of every step.
        teacher: runs kdqat's attention function; None: train on the labels.
        loss: what the student learns from the teacher.

    Returns:
        The steps and the history.
    """
    every: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if settings.eval_every is not None:
        every = {"eval_strategy": "steps", "save_strategy": "steps"}
        every |= {"eval_steps": settings.eval_every, "save_steps": settings.eval_every}
    last = _last_whole(resume)
    # Where every row is as long as any other, there is nothing to group.
    grouped = settings.padding == "longest"
    batches = SharedBatches(rows, settings.batch_size, grouped, seed, group.rank(), group.size())
    steps = settings.max_steps or ceil(settings.epochs * len(batches))
    arguments = TrainingArguments(
        output_dir=str(resume),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size // group.size(),
        weight_decay=settings.weight_decay,
        # 0: the optimiser clips for itself.
        max_grad_norm=settings.gradient_clip if settings.optimizer == "adamw" else 0.0,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{settings.keep_best}",
        greater_is_better=True,
        seed=seed,
        full_determinism=True,
        logging_strategy="steps",
        logging_steps=max(1, steps // _LOGS),
        logging_first_step=True,  # what EncoderTrainer measures divergence by
        logging_nan_inf_filter=False,  # it hides what EncoderTrainer stops at
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        use_cpu=group.size() > 1 and not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        **every,
    )
    # One process uses one GPU: Trainer would split its batches over all that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    rows = rows.remove_columns("length")
    pad = DataCollatorWithPadding(tokenizer, padding=settings.padding, max_length=max_length)
    trainer = EncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,  # Trainer asks for one; `score` knows the dev rows
        data_collator=Collator(pad, rows[0]),
        optimizer_cls_and_kwargs=optimizer_of(settings),
        callbacks=[_Report(progress, settings.eval_before_end)],
        score=score,
        batches=batches,
        teacher=teacher,
        loss=loss,
        precision=settings.precision,
        warmup=settings.warmup,
    )
    trainer.remove_callback(PrinterCallback)
    keep_freed_memory()
    state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME)) if last else trainer.state
    if last and state.global_step >= state.max_steps:  # it ended, but not so the command: Trainer would add a step
        progress(state.global_step, state.max_steps, _RESUMED)
        best = _checkpoint(resume, state.best_global_step or state.global_step)
        load_model(model, best / SAFE_WEIGHTS_NAME, strict=False)
        return Trained(state.global_step, _history(state.log_history))
    torch.manual_seed(seed + group.rank())  # each process draws dropout of its own
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return Trained(trainer.state.global_step, _history(trainer.state.log_history))


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Writes a history as CSV, for `dvc plots`."""
    known = {key for row in history for key in row}
    # In an order of its own: a history that was resumed from comes back with its keys sorted.
    columns = [key for key in _KEPT if key in known] + sorted(known - set(_KEPT))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _checkpoint(resume: Path, step: int) -> Path:
    return resume / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _last_whole(resume: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a kill or a full disk cut short is removed."""
    whole = {marker.parent for marker in resume.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_WHOLE}")}
    if group.leads():
        _keep(resume, whole)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _keep(resume: Path, wanted: set[Path]) -> None:
    for path in resume.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if path not in wanted:
            # Its mark goes first: half removed, it is not whole.
            (path / _WHOLE).unlink(missing_ok=True)
            shutil.rmtree(path)


def _history(log: list[dict[str, float]]) -> list[dict[str, float]]:
    rows: dict[float, dict[str, float]] = {}
    for entry in log:
        values = {key.removeprefix("eval_"): value for key, value in entry.items() if key in _KEPT or _is_result(key)}
        rows.setdefault(entry["step"], {}).update(values)
    return list(rows.values())


_KEPT = ("step", "epoch", "learning_rate", "loss")


def _is_result(key: str) -> bool:
    return key.startswith(("loss_", "eval_"))
