"""What dvc.yaml says, without a DVC project around it and without DVC's cache."""

from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.index import Index

from kdqat_cli.errors import ConfigError


def read_index(pipeline: Path) -> Any:
    """DVC's index of the stages of one dvc.yaml, with every parameter filled in.

    Raises:
        ConfigError: DVC cannot read it.
    """
    try:
        with Repo(uninitialized=True) as repo:
            return Index.from_file(repo, str(pipeline.absolute()))
    except DvcException as error:
        raise ConfigError(f"DVC cannot read {pipeline}: {error}", "dvc stage list") from error
