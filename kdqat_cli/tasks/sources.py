"""The folders in which the files of a task are searched."""

import os
from pathlib import Path

from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import is_there
from kdqat_cli.tasks.task import Task

ASSETS = Path("assets")
"""Folder into which `kdqat fetch` writes the embedded encoder and data."""
DATA_DIR_VARIABLE = "KDQAT_DATA_DIR"


def resolve_data_dir(option: str | None, params_value: str | None) -> Path | None:
    """The folder of the user's data: the option, else the variable KDQAT_DATA_DIR, else the value of params.yaml."""
    value = option or os.environ.get(DATA_DIR_VARIABLE) or params_value
    return Path(os.path.expanduser(value)) if value else None  # Path.expanduser raises an error for an unknown user


def data_folders(task: Task, data_dir: Path | None) -> list[Path]:
    """The folders to search for a task's files, in order: the user's data, the task file's folder, fetched data.

    Raises:
        MissingInputError: the folder `data_dir` does not exist.
    """
    if data_dir is not None and not (is_there(data_dir) and data_dir.is_dir()):
        raise MissingInputError(f"There is no data folder {data_dir}.", fix="--data-dir FOLDER")
    return [folder for folder in (data_dir, task.folder, ASSETS / "data") if folder is not None]


def found_in(folders: list[Path], name: str, task: Task) -> Path:
    """The path of a task's file or folder, in the first folder that has it.

    Raises:
        MissingInputError: no folder has it.
    """
    path = next((folder / name for folder in folders if is_there(folder / name)), None)
    if path is None:
        places = ", ".join(str(folder) for folder in folders)
        raise MissingInputError(
            f"Task {task.name}: there is no {name} in {places}.", f"--data-dir FOLDER, where FOLDER holds {name}"
        )
    return path
