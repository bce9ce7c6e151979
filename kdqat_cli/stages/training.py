"""Runs the training loop on a task: arguments, resume state, history."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.batches import Collator, SharedBatches
from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.optimizers import optimizer_of
from kdqat_cli.distillation.trainer import EncoderTrainer
from kdqat_cli.stages.memory import keep_freed_memory

Progress = Callable[[int, int, str], None]
"""Called after each step with the step, the number of steps, and what is new (or nothing)."""

_WHOLE = "whole"  # stands in a checkpoint that was written to its end


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps, "")
        at_end = state.global_step == state.max_steps
        if at_end and args.eval_strategy == IntervalStrategy.STEPS:  # wherever the interval falls
            control.should_log = control.should_evaluate = control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        group.meet()  # each process has a file in it: where its dropout stands
        if group.leads():
            (Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / _WHOLE).touch()

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, f"dev score {kwargs['metrics']['eval_score']:.2f}")


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
) -> list[dict[str, float]]:
    """Trains a model in place and leaves it at its best dev score.

    Args:
        model: the teacher to fine-tune, or the student.
        rows: what to train on, tokenised.
        tokenizer: pads the batches.
        score: gives the dev metrics of a model; `score` is the one that is maximised.
        settings: how to train.
        max_length: tokens that the rows were cut to.
        seed: of the order of rows and of dropout.
        resume: folder of this very training's checkpoints; the last one is continued.
        progress: is told of every step.
        teacher: runs kdqat's attention function; None: train on the labels.
        loss: what the student learns from the teacher.

    Returns:
        The history: a row an evaluation, with step, epoch, loss, its terms, and the dev metrics.
    """
    every: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    if settings.eval_every is not None:
        steps = settings.eval_every
        every = {f"{what}_strategy": "steps" for what in ("eval", "save", "logging")}
        every |= {f"{what}_steps": steps for what in ("eval", "save", "logging")}
    arguments = TrainingArguments(
        output_dir=str(resume),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        lr_scheduler_type="linear",
        per_device_train_batch_size=settings.batch_size // group.size(),
        weight_decay=settings.weight_decay,
        # 0: the optimiser clips for itself.
        max_grad_norm=settings.gradient_clip if settings.optimizer == "adamw" else 0.0,
        load_best_model_at_end=True,
        metric_for_best_model="eval_score",
        greater_is_better=True,
        save_total_limit=1,
        seed=seed,
        full_determinism=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        use_cpu=group.size() > 1 and not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        **every,
    )
    # One process uses one GPU: Trainer would split its batches over all that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # Where every row is as long as any other, there is nothing to group.
    grouped = settings.padding == "longest"
    batches = SharedBatches(rows, settings.batch_size, grouped, seed, group.rank(), group.size())
    rows = rows.remove_columns("length")
    pad = DataCollatorWithPadding(tokenizer, padding=settings.padding, max_length=max_length)
    trainer = EncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,  # Trainer asks for one; `score` knows the dev rows
        data_collator=Collator(pad, rows[0]),
        optimizer_cls_and_kwargs=optimizer_of(settings),
        callbacks=[_Report(progress)],
        score=score,
        batches=batches,
        teacher=teacher,
        loss=loss,
    )
    trainer.remove_callback(PrinterCallback)
    keep_freed_memory()
    torch.manual_seed(seed + group.rank())  # each process draws dropout of its own
    trainer.train(resume_from_checkpoint=_last_whole(resume))
    return _history(trainer.state.log_history)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Writes a history as CSV, for `dvc plots`."""
    known = {key for row in history for key in row}
    # In an order of its own: a history that was resumed from comes back with its keys sorted.
    columns = [key for key in _KEPT if key in known] + sorted(known - set(_KEPT))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _last_whole(resume: Path) -> str | None:
    """The newest checkpoint that was written to its end; a kill may have cut short a newer one."""
    whole = [marker.parent for marker in resume.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_WHOLE}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _history(log: list[dict[str, float]]) -> list[dict[str, float]]:
    rows: dict[float, dict[str, float]] = {}
    for entry in log:
        values = {key.removeprefix("eval_"): value for key, value in entry.items() if key in _KEPT or _is_result(key)}
        rows.setdefault(entry["step"], {}).update(values)
    return [row for row in rows.values() if "score" in row]


_KEPT = ("step", "epoch", "learning_rate", "loss")


def _is_result(key: str) -> bool:
    return key.startswith(("loss_", "eval_"))
