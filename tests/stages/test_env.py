"""`kdqat env` shows the environment that the commands use."""

import json
from pathlib import Path

import pytest
import torch

import kdqat_cli
from kdqat_cli.config import Params
from kdqat_cli.native.library import kernel_here, kernels
from kdqat_cli.processors import processors
from kdqat_cli.stages.env import env


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDQAT_DATA_DIR", raising=False)
    return tmp_path


def test_sections_and_values(folder: Path) -> None:
    (folder / "assets/data").mkdir(parents=True)
    (folder / "assets/data/rows.tsv").write_bytes(bytes(1234))
    found = env(Params())
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["kdqat"] == kdqat_cli.__version__
    assert found["versions"]["torch"] == torch.__version__
    machine = found["processor"]
    assert machine["kernels"] == kernels()
    assert machine["kernel that runs"] == kernel_here()
    assert machine["threads of the engine"] == processors()
    assert found["data"]["fetched"] == {"path": "assets", "bytes": 1234}
    assert found["data"]["data folder"] is None
    assert found["variables"]["KDQAT_DATA_DIR"] is None


def test_a_kernel_that_does_not_run_is_reported_not_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDQAT_KERNEL", "abacus")
    monkeypatch.setenv("KDQAT_DATA_DIR", str(folder))
    found = env(Params())
    assert "KDQAT_KERNEL is 'abacus'" in found["processor"]["kernel that runs"]
    assert found["data"]["data folder"]["path"] == str(folder)
