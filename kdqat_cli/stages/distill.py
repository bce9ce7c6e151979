"""distill: teacher → ternary student, by quantisation-aware training on a distillation loss."""

from copy import deepcopy
from pathlib import Path
from typing import TypedDict

from transformers import PreTrainedModel, set_seed

from kdqat_cli import group
from kdqat_cli.config import Settings
from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.objective import OnTeacher
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import layers_of
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.layers import freeze
from kdqat_cli.record import Record
from kdqat_cli.store.folder import HISTORY, MODEL, refuse_inputs, shared_folder
from kdqat_cli.store.run import Stopwatch, write_run
from kdqat_cli.tasks.registry import Task, check_keep_best
from kdqat_cli.tasks.text.models import load_teacher, save_classifier, student_record
from kdqat_cli.tasks.text.rows import TaskRows, task_rows
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.history import write_history
from kdqat_cli.training.loop import Loop, Progress, Trained


class Distilled(TypedDict):
    """What `distill` did."""

    folder: str
    """Where the student is."""
    score: float
    """Its dev score in percent."""
    teacher_score: float
    """The teacher's."""
    seconds: float
    """Wall-clock seconds."""


def distill(
    task: Task,
    teacher: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    out: Path,
    progress: Progress,
    force: bool = False,
) -> Distilled:
    """Trains a ternary copy of the teacher to follow it, and keeps the best evaluation on dev.

    Args:
        task: the task.
        teacher: folder or hub id of the teacher.
        settings: of which `student`, `quantization` and `distillation` are used.
        seed: of the order of rows and of dropout.
        data_dir: folder of local task data, or None.
        out: receives model/, history.csv and run.json.
        progress: is told of every step.
        force: replace a result of other settings, and remove checkpoints of other settings.

    Raises:
        ConfigError: it is no teacher that kdqat takes, its labels are not the task's, or the task does not report the
            metric of `keep_best`; or `out` is an input, holds what kdqat did not write, or a result of other settings.
        GateError: the teacher does no better than a constant answer.
        MissingInputError: no teacher or data there, or the folder is in use.
    """
    watch = Stopwatch()
    check_keep_best(task, "student", settings.student)
    refuse_inputs(out, {"teacher": teacher}, (data_dir, task.folder))
    with shared_folder(out, force) as work:
        source = load_teacher(teacher, task)
        _check_layers(settings, len(layers_of(source.model)))
        plain = student_record("student", task, source, settings)
        dev = task_rows(task, "dev", data_dir, source.tokenizer, plain.row_length, plain.batches)
        rows = task_rows(task, "train", data_dir, source.tokenizer, plain.row_length, plain.batches)
        record = _trained_record(plain, settings, seed, rows, dev)
        work.refuse_other(record)
        teacher_score = dev.teacher_score(source.model, teacher)

        resume = work.resume_folder(record)
        student, (steps, history) = _distilled(source.model, settings, rows, dev, seed, resume, progress)
        score = dev.score(student)["score"]
        if group.leads():
            save_classifier(student, source.tokenizer, work.scratch / MODEL, record)
            write_history(work.scratch / HISTORY, history)
            write_run(work.scratch, watch, rows=len(rows.rows), steps=steps, score=score)
    return {"folder": str(out), "score": score, "teacher_score": teacher_score, "seconds": watch.seconds}


def _distilled(
    teacher: PreTrainedModel,
    settings: Settings,
    rows: TaskRows,
    dev: TaskRows,
    seed: int,
    resume: Path,
    progress: Progress,
) -> tuple[PreTrainedModel, Trained]:
    """A frozen student at its best evaluation, and what its training did."""
    set_seed(seed)
    student = deepcopy(teacher)
    quantize_model(student, settings.quantization)
    use_kdqat_attention(teacher)
    recipe = settings.student
    objective = OnTeacher(student, teacher, DistillationLoss(settings.distillation), recipe.precision)
    batches = SharedBatches.of(rows, recipe, seed)
    trained = Loop(student, batches, objective, dev.score, recipe, seed, resume, progress).run()
    freeze(student)
    return student, trained


def _trained_record(plain: Record, settings: Settings, seed: int, rows: TaskRows, dev: TaskRows) -> Record:
    """A student's record with its training."""
    sources = plain.sources | {"train": rows.digest, "dev": dev.digest}
    made = {"seed": seed, "settings": settings.model_dump(exclude={"teacher"}), "sources": sources}
    return plain.model_copy(update=made)


def _check_layers(settings: Settings, layers: int) -> None:
    chosen = settings.distillation.hidden_layers
    outside = [] if chosen == "all" else [index for index in chosen if not -layers - 1 <= index <= layers]
    if outside:
        raise ConfigError(
            f"distillation.hidden_layers: the teacher has hidden states 0 to {layers} (from the top -1 to "
            f"{-layers - 1}), not {outside[0]}.",
            f"--hidden-layers -1,{-layers - 1}",
        )
