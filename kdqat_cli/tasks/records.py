"""What is recorded of a model folder, whatever kind of task it was made for."""

import json
from pathlib import Path

from torch import nn

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import is_there, read_bytes, text_of
from kdqat_cli.hub import CONFIG, refuse_hollow
from kdqat_cli.packing.packed_file import FILE_NAME, packed_record
from kdqat_cli.record import Record, read_record
from kdqat_cli.store.figures import Size
from kdqat_cli.store.folder import ABOUT, MODEL
from kdqat_cli.tasks.task import Task

_LARGEST_RECORD = 2**24  # bytes
_AGAIN = {"teacher": "finetune-teacher", "ternary": "quantize", "student": "distill", "export": "export"}
_QUANTIZED = {
    "ternary": "a ternary student",
    "student": "a student",
    "packed": "a packed student",
    "export": "an export",
}


def recorded(source: str | Path, fix: str | None = None) -> Record:
    """What is recorded of a model; of kind `plain` where none of ours made it.

    Args:
        source: hub id, folder or packed file.
        fix: what to do about a folder that holds no model, for the error.

    Raises:
        MissingInputError: a folder that holds no model, or the record is damaged.
    """
    folder = model_folder(source)
    if folder.is_dir() and not any(is_there(folder / name) for name in (CONFIG, ABOUT, FILE_NAME)):
        refuse_hollow(folder, fix)
    packed = (folder / FILE_NAME).exists()
    return packed_record(folder / FILE_NAME) if packed else recorded_in(folder)


def recorded_task(source: str, fix: str | None = None) -> str | None:
    """The task that a folder of kdqat's was made for, as `load_task` takes it; None for any other model.

    Args:
        source: hub id, folder or packed file.
        fix: see `recorded`.

    Raises:
        MissingInputError: the task's own file is gone, or the record is damaged.
    """
    record = recorded(source, fix)
    if record.task_file is None:
        return record.task
    if not Path(record.task_file).is_file():
        raise MissingInputError(
            f"{source} was made for the task {record.task_file}, which is not there.", "--task FILE"
        )
    return record.task_file


def refuse_quantized(source: str, name: str, what: str, fix: str) -> None:
    """Refuses a model of kdqat's whose weights are quantised.

    Args:
        source: folder or hub id.
        name: what the error calls it.
        what: what is wanted: a teacher, an encoder.
        fix: names one.

    Raises:
        ConfigError: it is a student or an export.
    """
    record = recorded(source)
    kind, quantization = record.kind, record.quantization
    if kind in _QUANTIZED and (quantization is None or quantization.weights != "fp32"):
        raise ConfigError(f"{name} holds {_QUANTIZED[kind]}, not {what}: its weights are quantised already.", fix)


def require_text(source: str, what: str) -> None:
    """Refuses a model whose rows are not text.

    Args:
        source: hub id, folder or packed file.
        what: what reads text only, for the error.

    Raises:
        ConfigError: it reads rows of another kind.
    """
    kind = recorded(source).rows_kind
    if kind != "text":
        raise ConfigError(
            f"{source} reads rows of the kind {kind}, but {what} takes models of text only.", f"kdqat evaluate {source}"
        )


def made_by(record: Record) -> str | None:
    """The command that makes such a model again; None: kdqat did not make it."""
    return f"kdqat {_AGAIN[record.kind]}, to make it again" if record.kind in _AGAIN else None


def task_file(task: Task) -> str | None:
    """Where a user's task lies, for the record: relative to the working folder if it is in it; None: packaged."""
    if task.file is None:
        return None
    path = task.file.resolve()
    here = Path.cwd().resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def size_figures(model: nn.Module, weights: Path) -> Size:
    """A model's parameters, its weights file's bytes, bits per weight and ratio to FP32."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = weights.stat().st_size
    return {
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": round(8 * size / parameters, 3),
        "ratio_to_fp32": round(4 * parameters / size, 2),
    }


def model_folder(source: str | Path) -> Path:
    """The folder with a model's files: of a packed file the one around it, of a stage's output the `model` in it."""
    folder = Path(source)
    if folder.name == FILE_NAME and folder.is_file():
        return folder.parent
    return folder / MODEL if (folder / MODEL).is_dir() and not (folder / "config.json").exists() else folder


def recorded_in(folder: Path) -> Record:
    """The record in a folder of a model that is not packed.

    Raises:
        MissingInputError: it is damaged.
    """
    path = folder / ABOUT
    if not is_there(path):
        return Record()
    text = text_of(path, read_bytes(path, _LARGEST_RECORD))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MissingInputError(
            f"{path} is not JSON; the folder is damaged.", f"copy {folder} again, or repeat the command that wrote it"
        ) from error
    return read_record(value, str(path))
