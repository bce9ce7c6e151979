"""Loads and checks models for a task of any kind."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers import PreTrainedModel

from kdqat_cli.config import Settings
from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.record import ModelKind, Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.places import teacher_folder
from kdqat_cli.store.run import versions
from kdqat_cli.tasks.kind import Loaded, Rows
from kdqat_cli.tasks.records import recorded, refuse_quantized
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import Task

_LOGGER = logging.getLogger(__name__)


def load_model(source: str, task: Task, name: str, fix: str | None = None) -> Loaded:
    """Loads a trained model, and puts its outputs into the order of the task's labels.

    Args:
        source: folder, packed file or hub id.
        task: the task.
        name: the model's name in errors.
        fix: the command that makes the folder, for the error.

    Raises:
        ConfigError: its labels differ from the task's, it reads another kind of rows, or kdqat cannot use it.
        MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
    """
    record = recorded(source, fix)
    if record.kind != "plain" and record.rows_kind != task.kind:
        raise ConfigError(
            f"{name} reads rows of the kind {record.rows_kind}, but task {task.name} has rows of the kind {task.kind}.",
            f"kdqat finetune-teacher --task {task.name}",
        )
    kind = kind_of(task)
    loaded = kind.load(source, fix)
    kind.align(loaded, task, name)
    return loaded


def load_teacher(teacher: str, task: Task) -> Loaded:
    """Loads a teacher, and puts its outputs into the order of the task's labels.

    Args:
        teacher: folder or hub id.
        task: the task.

    Raises:
        ConfigError: it is a student or an export; or see `load_model`.
        MissingInputError: see `load_model`.
    """
    refuse_quantized(teacher, teacher, "a teacher", f"--teacher {teacher_folder(task.name)}")
    loaded = load_model(teacher, task, f"The teacher {teacher}", f"kdqat finetune-teacher --task {task.name}")
    if loaded.record.kind == "plain" and not Path(teacher).exists():
        loaded.record = loaded.record.model_copy(update={"encoder": teacher})
    return loaded


def student_record(kind: ModelKind, task: Task, teacher: Loaded, settings: Settings) -> Record:
    """Makes the record of a quantised student.

    Args:
        kind: `ternary` or `student`.
        task: the task.
        teacher: the student's teacher.
        settings: settings; the record has `quantization`, and from `student` how rows are read.

    Raises:
        ConfigError: the model cannot read rows with these settings.
    """
    reading = kind_of(task).reading(teacher, task, settings.student, "student")
    weights = {"teacher": None if teacher.weights is None else file_digest(teacher.weights)}
    if (begun := teacher.record.sources.get("encoder")) is not None:
        weights["encoder"] = begun
    made = {
        "kind": kind,
        "encoder": teacher.record.encoder,
        "quantization": settings.quantization,
        "sources": reading.sources | weights,
        "versions": versions(),
    }
    return reading.model_copy(update=made)


def marked(record: Record, reasons: Iterable[str | None]) -> Record:
    """The record, marked as not to be quoted if there is a reason why a score says nothing about the method.

    Args:
        record: record of the model.
        reasons: parts of a sentence; None: no reason.
    """
    given = list(dict.fromkeys(filter(None, reasons)))
    if given:
        _LOGGER.warning("The result is marked as not to be quoted: %s.", "; ".join(given))
    return record.model_copy(update={"not_to_be_quoted": "; ".join(given)}) if given else record


def undecided(model: PreTrainedModel) -> PreTrainedModel:
    """Takes the threshold from a multi-label model that is to be trained: each evaluation then chooses one.

    Returns:
        The same model.
    """
    if getattr(model.config, "threshold", None) is not None:
        model.config.threshold = None
    return model


def decided(model: PreTrainedModel, record: Record, metrics: Mapping[str, float]) -> Record:
    """Gives a trained multi-label model the threshold that it was scored with on dev.

    Returns:
        The record with the threshold; the record unchanged if the model is not multi-label.
    """
    if "threshold" not in metrics:
        return record
    model.config.threshold = metrics["threshold"]
    return record.model_copy(update={"threshold": metrics["threshold"]})


def cut_short(rows: Rows, limit: int | None) -> str | None:
    """Why the result of a training with `limit` is not to be quoted; None: the training had all rows."""
    return f"it was trained on the first {limit} rows" if len(rows.examples) == limit else None


def teacher_fault(teacher: Record, score: float, dev: Rows) -> str | None:
    """Why a distillation from this teacher is not to be quoted; None: there is no reason.

    Args:
        teacher: the teacher's record.
        score: the result of `teacher_score`.
        dev: the rows that the teacher was scored on.
    """
    if score <= dev.chance:
        return "its teacher is no better than a constant answer"
    return f"its teacher: {teacher.not_to_be_quoted}" if teacher.not_to_be_quoted else None


def teacher_score(model: PreTrainedModel, task: Task, dev: Rows, name: str, weak: bool = False) -> float:
    """A teacher's dev score in percent.

    Args:
        model: the teacher, in full precision.
        task: the task.
        dev: the rows to score on.
        name: the teacher's name in the error.
        weak: whether a teacher that is no better than a constant answer is allowed.

    Raises:
        GateError: the teacher is no better than a constant answer, and that is not allowed.
    """
    score = dev.score(model)["score"]
    chance = dev.chance
    if score <= chance and not weak:
        raise GateError(
            f"The teacher {name} scores {score:.2f} on {task.name}, no better than a constant answer ({chance:.2f}): "
            "a student cannot learn the task from it.",
            f"kdqat finetune-teacher --task {task.name}, with more --epochs or another encoder or network (--help); "
            "for a smoke run --allow-weak-teacher",
        )
    return score
