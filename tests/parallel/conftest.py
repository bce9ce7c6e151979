"""The projects for the tests of `kdqat repro` and `kdqat sweep`."""

import shutil
from pathlib import Path

import pytest

from tests.commands import run
from tests.parallel.projects import COUNT, PIPELINE, set_params


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty DVC project, which tests copy because `dvc init` takes a second."""
    folder = tmp_path_factory.mktemp("empty")
    run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


@pytest.fixture
def project(empty: Path, tmp_path: Path) -> Path:
    """A DVC project with the pipeline above; no stage has run."""
    folder = tmp_path / "project"
    shutil.copytree(empty, folder)
    (folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (folder / "in.txt").write_text("one\n", encoding="utf-8")
    set_params(folder, 1, 1)
    return folder


@pytest.fixture
def counting(project: Path) -> Path:
    """A project with two stages that count to 5, wait for a file `go`, and count further; and one that needs both."""
    (project / "count.py").write_text(COUNT, encoding="utf-8")
    text = "stages:\n  count:\n    foreach: [a, b]\n    do:\n      cmd: python count.py ${item} 8 && true\n"
    text += "      deps: [count.py]\n      outs: ['${item}.txt']\n"
    text += "  sum:\n    cmd: cat a.txt b.txt > sum.txt\n    deps: [a.txt, b.txt]\n    outs: [sum.txt]\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    return project
