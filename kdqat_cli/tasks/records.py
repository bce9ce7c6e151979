"""Reads the record of a model folder, for all kinds of tasks, and answers questions about it."""

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
    """Reads the record of a model; its kind is `plain` if kdqat did not make the model.

    Args:
        source: hub id, folder or packed file.
        fix: the remedy in the error about a folder without a model.

    Raises:
        MissingInputError: the folder has no model, or the record is damaged.
    """
    folder = model_folder(source)
    if folder.is_dir() and not any(is_there(folder / name) for name in (CONFIG, ABOUT, FILE_NAME)):
        refuse_hollow(folder, fix)
    packed = (folder / FILE_NAME).exists()
    return packed_record(folder / FILE_NAME) if packed else recorded_in(folder)


def recorded_task(source: str, fix: str | None = None) -> str | None:
    """The task that a model was made for: a name or the path of a task file, for `load_task`; None: not recorded.

    Args:
        source: hub id, folder or packed file.
        fix: see `recorded`.

    Raises:
        MissingInputError: the task file does not exist any more, or the record is damaged.
    """
    record = recorded(source, fix)
    if record.task_file is None:
        return record.task
    if not Path(record.task_file).is_file():
        raise MissingInputError(
            f"{source} was made for the task {record.task_file}, but that file does not exist.", "--task FILE"
        )
    return record.task_file


def refuse_quantized(source: str, name: str, what: str, fix: str) -> None:
    """Refuses a model that kdqat has quantised.

    Args:
        source: folder or hub id.
        name: the model's name in the error.
        what: the kind of model that is needed, for example "a teacher".
        fix: the remedy in the error.

    Raises:
        ConfigError: the model is a student or an export, with quantised weights.
    """
    record = recorded(source)
    kind, quantization = record.kind, record.quantization
    if kind in _QUANTIZED and (quantization is None or quantization.weights != "fp32"):
        raise ConfigError(f"{name} holds {_QUANTIZED[kind]}, not {what}: its weights are quantised already.", fix)


def require_text(source: str, what: str) -> None:
    """Refuses a model whose rows are not text.

    Args:
        source: hub id, folder or packed file.
        what: the part of kdqat that supports only text, for the error.

    Raises:
        ConfigError: the model reads rows of another kind.
    """
    kind = recorded(source).rows_kind
    if kind != "text":
        raise ConfigError(
            f"{source} reads rows of the kind {kind}, but {what} takes only models of text.", f"kdqat evaluate {source}"
        )


def made_by(record: Record) -> str | None:
    """The command that makes the model again; None: kdqat did not make it."""
    return f"kdqat {_AGAIN[record.kind]}, to make it again" if record.kind in _AGAIN else None


def task_file(task: Task) -> str | None:
    """The path of a user's task file, for the record; relative if it is in the working folder. None: packaged."""
    if task.file is None:
        return None
    path = task.file.resolve()
    here = Path.cwd().resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def size_figures(model: nn.Module, weights: Path) -> Size:
    """The number of parameters of a model, the bytes of its weights file, bits per weight, and ratio to FP32."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = weights.stat().st_size
    return {
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": round(8 * size / parameters, 3),
        "ratio_to_fp32": round(4 * parameters / size, 2),
    }


def model_folder(source: str | Path) -> Path:
    """The folder of a model's files: for a packed file its folder; for the output folder of a stage, its model/."""
    folder = Path(source)
    if folder.name == FILE_NAME and folder.is_file():
        return folder.parent
    return folder / MODEL if (folder / MODEL).is_dir() and not (folder / "config.json").exists() else folder


def recorded_in(folder: Path) -> Record:
    """Reads the record in the folder of a model that is not packed.

    Raises:
        MissingInputError: the record is damaged.
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
