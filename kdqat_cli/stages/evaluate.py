"""evaluate: any classifier → its metrics and its size, as flat JSON."""

from collections.abc import Mapping
from pathlib import Path

from kdqat_cli.config import Device
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.gpu.model import gpu
from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.store.figures import Metrics, factors_of, holds_metrics
from kdqat_cli.store.folder import refuse_inside
from kdqat_cli.store.writing import refuse_target, write_json
from kdqat_cli.tasks.kind import Loaded
from kdqat_cli.tasks.models import load_model
from kdqat_cli.tasks.records import size_figures
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import LabelledTask, Task


def evaluate(
    task: Task,
    model: str,
    data_dir: Path | None,
    out: Path | None,
    max_length: int | None = None,
    min_score: float | None = None,
    device: Device | None = None,
) -> dict[str, float]:
    """Scores a folder or hub model on a task.

    Args:
        task: the task.
        model: a plain, ternary or packed folder, or a hub id.
        data_dir: folder of local task data, or None.
        out: the JSON file to write (`store/figures.py`), or None. A link there is replaced, not followed.
        max_length: tokens a row is cut to; None: what the model was trained with, else the task's own length.
        min_score: the headline score, in percent, below which the command fails.
        device: that computes; None: the GPU where there is one, else the processor. A ternary student, packed or not,
            is computed by the engine on a processor. On a GPU torch computes; a packed model, where `cuda` is asked
            for, is computed there from its packed weights.

    Returns:
        `score` and the task's metrics in percent (those of further splits under the split's name), `rows`,
        and for local files `parameters`, `bytes`, `bits_per_weight` and `ratio_to_fp32`.

    Raises:
        ConfigError: the model's labels are not the task's, a packed model is not served on the GPU, or `out` lies
            inside the model or is a file that kdqat did not write.
        GateError: the score is below `min_score`; the file is written all the same.
        MissingInputError: no model or data there, no GPU, or `out` cannot be written.
    """
    if out is not None:
        refuse_inside(out, {"model": model})
        refuse_target(out, holds_metrics)
    loaded = load_model(model, task, f"The model {model}")
    figures = _scores(loaded, task, data_dir, max_length, _on(device, loaded, task) if device else None)
    size: Mapping[str, object] = size_figures(loaded.model, loaded.weights) if loaded.weights else {}
    metrics = Metrics.model_validate({**figures, **size, "model": factors_of(loaded.record, task.name)})
    if out is not None:
        write_json(out, metrics.to_json(), holds_metrics)
    if min_score is not None and metrics.score < min_score:
        raise GateError(f"{model} scores {metrics.score:.2f} on {task.name}, below the bar of {min_score:.2f}.")
    return metrics.figures


def _scores(
    loaded: Loaded, task: Task, data_dir: Path | None, max_length: int | None, engine: Engine | None
) -> dict[str, float]:
    """The metrics and the number of rows of every split that the task is scored on."""
    kind = kind_of(task)
    record = kind.as_recorded(loaded, task, max_length)
    figures: dict[str, float] = {}
    for split in task.splits:
        rows = kind.rows(task, split, data_dir, loaded, record)
        prefix = "" if split == "dev" else f"{split}_"
        figures |= {f"{prefix}{name}": value for name, value in rows.score(loaded.model, engine).items()}
        figures[f"{prefix}rows"] = len(rows.examples)
    return figures


def _on(device: Device, loaded: Loaded, task: Task) -> Engine | None:
    """Brings the model to a device; a packed one, on a GPU, into an engine."""
    if device == "cpu":
        loaded.model.cpu()
        return None
    gpu()  # where there is one, the model was loaded onto it
    if loaded.record.kind != "packed" or loaded.record.rows_kind != "text" or loaded.weights is None:
        return None
    if isinstance(task, LabelledTask) and loaded.record.labels != task.labels:
        raise ConfigError(
            f"{loaded.weights} was packed with other labels than task {task.name} has.", "kdqat evaluate, no --device"
        )
    return Engine.load(loaded.weights, device=device)
