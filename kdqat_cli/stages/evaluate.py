"""evaluate: any classifier → its metrics and its size, as flat JSON."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.runtime.device import Device
from kdqat_cli.runtime.engine import Engine
from kdqat_cli.stages.folder import write_json
from kdqat_cli.stages.models import Classifier, align_labels, load_classifier, recorded_batches, size_figures
from kdqat_cli.stages.rows import TaskRows, row_length, task_rows
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.registry import Task


def evaluate(
    task: Task,
    model: str,
    data_dir: Path | None,
    out: Path | None,
    max_length: int | None = None,
    min_score: float | None = None,
    engine: bool = False,
    device: Device = "cpu",
) -> dict[str, float]:
    """Scores a folder or hub model on a task.

    Args:
        task: the task.
        model: a plain, ternary or packed folder, or a hub id.
        data_dir: folder of local task data, or None.
        out: the JSON file to write, or None.
        max_length: tokens a row is cut to; None: what the model was trained with, else the task's own length.
        min_score: the headline score, in percent, below which the command fails.
        engine: a packed model is run by kdqat's engine instead of torch.
        device: on which the engine computes.

    Returns:
        `score` and the task's metrics in percent (those of further splits under the split's name), `rows`,
        and for local files `parameters`, `bytes`, `bits_per_weight` and `ratio_to_fp32`.

    Raises:
        ConfigError: the model's labels are not the task's, or the engine is asked for a model that is not packed.
        GateError: the score is below `min_score`; the file is written all the same.
        MissingInputError: no model or data there, or no GPU.
    """
    loaded = load_classifier(model)
    align_labels(loaded.model, task, f"The model {model}")
    batches = recorded_batches(loaded.about)
    if max_length:
        batches = replace(batches, pad_to=batches.pad_to and max_length)
    max_length = row_length(task, loaded.tokenizer, max_length or loaded.about.get("max_length"))
    runner = _engine(model, loaded, task, device) if engine else None
    metrics: dict[str, float] = {}
    for split in task.splits:
        rows = task_rows(task, split, data_dir, loaded.tokenizer, max_length, batches)
        prefix = "" if split == "dev" else f"{split}_"
        metrics |= {f"{prefix}{name}": value for name, value in _scored(rows, loaded, runner).items()}
        metrics[f"{prefix}rows"] = len(rows.rows)
    if loaded.weights is not None:
        metrics |= size_figures(loaded.model, loaded.weights)
    if out is not None:
        write_json(out, metrics)
    if min_score is not None and metrics["score"] < min_score:
        raise GateError(f"{model} scores {metrics['score']:.2f} on {task.name}, below the bar of {min_score:.2f}.")
    return metrics


def _engine(model: str, loaded: Classifier, task: Task, device: Device) -> Engine:
    if loaded.kind != "packed" or loaded.weights is None:
        raise ConfigError(f"The engine runs packed models; {model} holds a {loaded.kind} one.", "kdqat export")
    if loaded.about["labels"] != task.labels:
        raise ConfigError(
            f"{model} was packed with other labels than task {task.name} has.", "kdqat evaluate, no --engine"
        )
    return Engine.load(loaded.weights, device=device)


def _scored(rows: TaskRows, loaded: Classifier, engine: Engine | None) -> dict[str, float]:
    if engine is None:
        return rows.score(loaded.model)
    columns = rows.rows.with_format(None)
    types = columns["token_type_ids"] if "token_type_ids" in columns.column_names else [None] * len(columns)
    inputs = list(zip(columns["input_ids"], types, strict=True))
    logits = [
        engine.logits(inputs[start : start + rows.batches.size]) for start in range(0, len(inputs), rows.batches.size)
    ]
    return compute_metrics(rows.task, np.concatenate(logits), rows.labels)
