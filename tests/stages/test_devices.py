"""Trainings on several devices: two processes train as one does, fail as one does, and leave nothing behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from kdqat_cli.cli import app
from tests.commands import REPOSITORY, environment, run
from tests.parallel.projects import start, wait_for
from tests.stages.trainings import NAMES, trained

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, rated_task: Path) -> dict[str, Any]:
    """What comes of the trainings in two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(
        folder,
        *(sys.executable, "-m", "tests.stages.trainings", str(tiny_encoder), str(rated_task), str(folder)),
        PYTHONPATH=str(REPOSITORY),
    )
    results: dict[str, Any] = json.loads((folder / "two.json").read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_does(
    two: dict[str, Any], tiny_encoder: Path, rated_task: Path, tmp_path: Path, name: str
) -> None:
    """Trainer's logs are of single precision; metrics and weights are not, and come of a dozen steps of Adam."""
    one, both = trained(name, tiny_encoder, rated_task, tmp_path), two[name]
    assert len(one["history"]) == len(both["history"]) == 2
    for mine, theirs in zip(one["history"], both["history"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)
    assert both["score"] == pytest.approx(one["score"], rel=1e-6)
    assert both["weights"].keys() == one["weights"].keys()
    for key, values in one["weights"].items():
        np.testing.assert_allclose(both["weights"][key], values, rtol=0, atol=1e-7, err_msg=key)
    assert len(set(both["draws"])) == 2, "each process has dropout of its own"
