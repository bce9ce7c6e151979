"""The files that the Containerfiles copy and install exist, and the build context has all sources of the wheels."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import REPOSITORY

CONTAINERS = sorted((REPOSITORY / "packaging/containers").glob("*.Containerfile"))


def context(folder: Path) -> Path:
    """The files of the build context: .dockerignore leaves out everything except the names after `!`."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    patterns = [line[1:] for line in lines if line.startswith("!")]
    for source in (path for pattern in patterns for path in REPOSITORY.glob(pattern)):
        target = folder / source.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so", "build", "*.egg-info")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target, follow_symlinks=False)
    return folder


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda path: path.stem)
def test_a_wheel_can_be_built_from_the_context(container: Path, tmp_path: Path) -> None:
    (project,) = re.findall(r"pip wheel .* /source(\S*)", container.read_text(encoding="utf-8"))
    source = context(tmp_path / "source")
    # No library is compiled here; tests/test_runtime_wheel.py does that, which takes minutes.
    command = [sys.executable, "-c", "from setuptools.build_meta import *; import sys; build_sdist(sys.argv[1])"]
    subprocess.run([*command, str(tmp_path)], cwd=source / project.lstrip("/"), check=True, capture_output=True)
    (made,) = tmp_path.glob("kdqat*.tar.gz")
    names = subprocess.run(["tar", "tzf", str(made)], check=True, capture_output=True, text=True).stdout
    for needed in (
        "kdqat_cli/engine/engine.py",
        "kdqat_cli/native/src/avx2.cpp",
        "kdqat_cli/tasks/rte.yaml",
        "LICENSE",
        *(["kdqat_cli/projects/pipelines/table-2-glue/dvc.yaml"] if not project else []),
    ):
        assert f"/{needed}\n" in names, needed


def test_each_container_starts_the_command() -> None:
    assert len(CONTAINERS) == 2
    for container in CONTAINERS:
        assert container.read_text(encoding="utf-8").rstrip().endswith('ENTRYPOINT ["kdqat"]')
