"""finetune-teacher: encoder → FP32 classifier of a task."""

from pathlib import Path
from typing import TypedDict

from transformers import set_seed

from kdqat_cli import group
from kdqat_cli.config import Settings, Training
from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.record import Batches, Inputs, Record
from kdqat_cli.store.folder import HISTORY, MODEL, refuse_inputs, shared_folder
from kdqat_cli.store.run import Stopwatch, versions, write_run
from kdqat_cli.tasks.registry import Task, check_keep_best
from kdqat_cli.tasks.text.models import encoder_digest, encoder_location, load_encoder, save_classifier, task_file
from kdqat_cli.tasks.text.reader import inputs_of
from kdqat_cli.tasks.text.rows import row_length, task_rows
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.history import write_history
from kdqat_cli.training.loop import Loop, Progress


class FineTuned(TypedDict):
    """What `finetune-teacher` did."""

    folder: str
    """Where the teacher is."""
    score: float
    """Dev score in percent."""
    seconds: float
    """Wall-clock seconds."""


def finetune_teacher(
    task: Task,
    encoder: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    out: Path,
    progress: Progress,
    force: bool = False,
) -> FineTuned:
    """Fine-tunes an encoder on the task's labels and keeps the best evaluation on dev.

    Args:
        task: the task.
        encoder: hub id, local folder, or `embedded`.
        settings: of which `teacher` is used.
        seed: of the head's first weights, the order of rows and dropout.
        data_dir: folder of local task data, or None.
        out: receives model/, history.csv and run.json.
        progress: is told of every step.
        force: replace a result of other settings, and remove checkpoints of other settings.

    Raises:
        ConfigError: an encoder that kdqat does not take, or the task does not report the metric of `keep_best`; or
            `out` is an input, holds what kdqat did not write, or a result of other settings.
        MissingInputError: no encoder or data there, or the folder is in use.
    """
    watch = Stopwatch()
    check_keep_best(task, "teacher", settings.teacher)
    refuse_inputs(out, {"encoder": encoder_location(encoder)}, (data_dir, task.folder))
    with shared_folder(out, force) as work:
        set_seed(seed)
        model, tokenizer = load_encoder(encoder, task)
        max_length = row_length(task, tokenizer, settings.teacher.max_length)
        scored = _batches(settings.teacher)
        rows = task_rows(task, "train", data_dir, tokenizer, max_length, scored)
        dev = task_rows(task, "dev", data_dir, tokenizer, max_length, scored)
        sources = {"encoder": encoder_digest(encoder), "train": rows.digest, "dev": dev.digest}
        record = _record(task, encoder, settings.teacher, seed, max_length, inputs_of(tokenizer), sources)
        work.refuse_other(record)
        resume = work.resume_folder(record)
        batches = SharedBatches.of(rows, settings.teacher, seed)
        objective = OnLabels(settings.teacher.precision)
        steps, history = Loop(model, batches, objective, dev.score, settings.teacher, seed, resume, progress).run()
        score = dev.score(model)["score"]
        if group.leads():
            save_classifier(model, tokenizer, work.scratch / MODEL, record)
            write_history(work.scratch / HISTORY, history)
            write_run(work.scratch, watch, rows=len(rows.rows), steps=steps, score=score)
    return {"folder": str(out), "score": score, "seconds": watch.seconds}


def _batches(settings: Training) -> Batches:
    return Batches(keeps_more=settings.keeps_more)


def _record(
    task: Task,
    encoder: str,
    settings: Training,
    seed: int,
    max_length: int,
    inputs: Inputs,
    sources: dict[str, str | None],
) -> Record:
    """What is recorded in kdqat.json of a teacher."""
    return Record(
        kind="teacher",
        task=task.name,
        task_file=task_file(task),
        labels=task.labels,
        pairs=task.pairs,
        encoder=encoder,
        seed=seed,
        max_length=max_length,
        inputs=inputs,
        batches=_batches(settings),
        settings=settings.model_dump(),
        sources=sources,
        versions=versions(),
    )
