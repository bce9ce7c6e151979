"""evaluate: measures the metrics and the size of any model, as flat JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdqat_cli.config import Device
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.gpu.model import gpu
from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.store.details import refuse_details, write_details
from kdqat_cli.store.figures import Metrics, factors_of, holds_metrics
from kdqat_cli.store.folder import refuse_inside
from kdqat_cli.store.writing import refuse_target, write_json
from kdqat_cli.tasks.details import Answers, Table, agreement, tables
from kdqat_cli.tasks.kind import Loaded
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.models import load_model
from kdqat_cli.tasks.records import size_figures
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import LabelledTask, Task


@dataclass(frozen=True)
class More:
    """Further outputs and limits of an evaluation.

    Attributes:
        details: output folder for the tables of every split (`tasks/details.py`), or None.
        teacher: a model whose answers are compared, or None.
        limit: largest number of rows per split, from the first; None: all. A score on fewer rows is marked as not to be
            quoted.
    """

    details: Path | None = None
    teacher: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class _Measured:
    figures: dict[str, float]
    tables: dict[str, Table]
    cut: bool


def evaluate(
    task: Task,
    model: str,
    data_dir: Path | None,
    out: Path | None,
    max_length: int | None = None,
    min_score: float | None = None,
    device: Device | None = None,
    more: More = More(),
) -> dict[str, Any]:
    """Scores a folder or hub model on a task.

    Args:
        task: the task.
        model: a plain, ternary or packed folder, or a hub id.
        data_dir: folder of local task data, or None.
        out: the JSON file to write (`store/figures.py`), or None. A link with this name is replaced, not followed.
        max_length: largest number of tokens of a row; None: that of the training, else the task's own.
        min_score: smallest headline score, in percent, with which the command does not fail; None: any.
        device: device that computes, see `_on`; None: the GPU if there is one, else the CPU.
        more: further outputs and limits.

    Returns:
        The figures of `Metrics` (`store/figures.py`), and `not_to_be_quoted`, the reason why a score means nothing.

    Raises:
        ConfigError: the model's labels differ from the task's, the packed model cannot be served on a GPU, an output is
            inside the model or was not written by kdqat, or the task's answers have no details.
        GateError: the score is below `min_score`; the files are written nevertheless.
        MissingInputError: there is no model, no data or no GPU, or `out` cannot be written.
    """
    _check_outputs(model, out, more.details)
    metrics, tables_of = _scored(task, model, data_dir, max_length, device, more)
    if out is not None:
        write_json(out, metrics.to_json(), holds_metrics)
    if more.details is not None:
        write_details(more.details, tables_of, {"source": model, "teacher": more.teacher} | metrics.to_json())
    _require(min_score, metrics, model, task)
    mark = metrics.not_to_be_quoted
    return metrics.figures | ({} if mark is None else {"not_to_be_quoted": mark})


def _scored(
    task: Task, model: str, data_dir: Path | None, max_length: int | None, device: Device | None, more: More
) -> tuple[Metrics, dict[str, Table]]:
    loaded = load_model(model, task, f"The model {model}")
    teacher = load_model(more.teacher, task, f"The teacher {more.teacher}") if more.teacher else None
    engine = _on(device, loaded, task) if device else None
    if device == "cpu" and teacher is not None:
        teacher.model.cpu()
    measured = _measure(loaded, teacher, task, data_dir, max_length, engine, more)
    return _metrics(loaded, task, measured, more.limit), measured.tables


def _require(min_score: float | None, metrics: Metrics, model: str, task: Task) -> None:
    if min_score is not None and metrics.score < min_score:
        raise GateError(f"{model} scores {metrics.score:.2f} on {task.name}, below the bar of {min_score:.2f}.")


def _metrics(loaded: Loaded, task: Task, measured: _Measured, limit: int | None) -> Metrics:
    """The figures with the model's size and factors, and the reason if its score is not to be quoted."""
    size: Mapping[str, object] = size_figures(loaded.model, loaded.weights) if loaded.weights else {}
    cut = [f"it was scored on the first {limit} rows of a split"] if measured.cut else []
    mark = "; ".join([*filter(None, [loaded.record.not_to_be_quoted]), *cut]) or None
    factors = factors_of(loaded.record, task.name)
    return Metrics.model_validate({**measured.figures, **size, "model": factors, "not_to_be_quoted": mark})


def _check_outputs(model: str, out: Path | None, details: Path | None) -> None:
    for path in filter(None, (out, details)):
        refuse_inside(path, {"model": model})
    if out is not None:
        refuse_target(out, holds_metrics)
    if details is not None:
        refuse_details(details)


def _measure(
    loaded: Loaded,
    teacher: Loaded | None,
    task: Task,
    data_dir: Path | None,
    max_length: int | None,
    engine: Engine | None,
    more: More,
) -> _Measured:
    """The metrics, the number of rows and the tables of every split that the task is scored on."""
    kind = kind_of(task)
    record = kind.as_recorded(loaded, task, max_length)
    measured = _Measured({}, {}, False)
    for split in task.splits:
        rows = kind.rows(task, split, data_dir, loaded, record, more.limit)
        prefix = "" if split == "dev" else f"{split}_"
        others, made = None, dict[str, Table]()
        if teacher is not None:
            reading = kind.as_recorded(teacher, task, max_length)
            others = kind.rows(task, split, data_dir, teacher, reading, more.limit).answers(teacher.model)
        if more.details is None and teacher is None:
            figures = rows.score(loaded.model, engine)
        else:
            figures, made = _detailed(task, rows.answers(loaded.model, engine), others)
        figures["rows"] = len(rows.examples)
        measured.figures.update({f"{prefix}{name}": value for name, value in figures.items()})
        measured.tables.update({f"{prefix}{name}": table for name, table in made.items()})
        measured = replace(measured, cut=measured.cut or figures["rows"] == more.limit)
    return measured


def _detailed(
    task: Task, answers: Answers | None, teacher: Answers | None
) -> tuple[dict[str, float], dict[str, Table]]:
    if answers is None or not isinstance(task, LabelledTask):
        raise ConfigError(
            f"The answers of task {task.name} are neither classes nor numbers; there are no details of them.",
            "kdqat evaluate, without --details and --teacher",
        )
    figures = compute_metrics(task, answers.logits, answers.labels, answers.threshold)
    figures |= {} if teacher is None else agreement(task, answers, teacher)
    return figures, tables(task, answers, teacher)


def _on(device: Device, loaded: Loaded, task: Task) -> Engine | None:
    """Moves the model to a device; for a packed model on a GPU, returns an engine.

    On a CPU the engine computes a ternary student, packed or not. On a GPU torch computes; only a packed model with the
    device `cuda` is computed there by the engine, from its packed weights.
    """
    if device == "cpu":
        loaded.model.cpu()
        return None
    gpu()  # raises an error without a GPU; with one, the model is on it already
    if loaded.record.kind != "packed" or loaded.record.rows_kind != "text" or loaded.weights is None:
        return None
    if isinstance(task, LabelledTask) and loaded.record.labels != task.labels:
        raise ConfigError(
            f"{loaded.weights} was packed with other labels than task {task.name} has.", "kdqat evaluate, no --device"
        )
    return Engine.load(loaded.weights, device=device)
