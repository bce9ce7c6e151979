"""Reads dvc.yaml without a DVC project and without DVC's cache."""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.index import Index
from dvc.scm import SCMError

from kdqat_cli.errors import ConfigError
from kdqat_cli.files import is_there, lines

_LOCK = Path("dvc.lock")
_MARKERS = ("<<<<<<< ", "=======", ">>>>>>> ")
_LONGEST = 2**20  # bytes of a line


def read_index(pipeline: Path) -> Index:
    """DVC's index of the stages of one dvc.yaml, with the values of all parameters.

    Raises:
        ConfigError: DVC cannot read it.
    """
    try:
        with Repo(uninitialized=True) as repo:
            return Index.from_file(repo, str(pipeline.absolute()))
    except DvcException as error:
        raise unreadable(str(pipeline), error) from error


def unreadable(what: str, error: DvcException) -> ConfigError:
    """The error for a pipeline that DVC cannot read. DVC does not report merge markers in its lock file; this does."""
    if is_there(_LOCK):
        for number, line in enumerate(lines(_LOCK, _LONGEST), 1):
            if line.startswith(_MARKERS):
                return ConfigError(
                    f"{_LOCK}, line {number}: {line.strip()} is a marker of a merge conflict.",
                    "one side of each conflict kept, or git checkout --ours dvc.lock; then kdqat repro",
                )
    if isinstance(error, SCMError):
        return ConfigError(
            f"This DVC project is in no git repository: {error}.",
            "git init, or without git dvc config core.no_scm true",
        )
    return ConfigError(f"DVC cannot read {what}: {error}", "dvc stage list")
