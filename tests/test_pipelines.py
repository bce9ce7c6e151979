"""The folders under pipelines/: each resolves, each is valid, and one runs whole on a tiny encoder and task."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands import REPOSITORY, run

FOLDERS = sorted(path.parent for path in (REPOSITORY / "pipelines").glob("*/dvc.yaml"))
PARAMS = """\
recipe: clean
encoder: {encoder}
data_dir: null
published: null
tasks: [tiny]
axes:
  changes:
    - {{name: as-it-is, options: ""}}
    - {{name: no-clip, options: --set quantization.weight_clip=null}}
seeds: [1, 2]
settings:
  tiny:
    teacher: {{epochs: 12, batch_size: 8, learning_rate: 4e-3}}
    student: {{epochs: 1, batch_size: 8, learning_rate: 1e-3}}
    quantization: {{}}
    distillation: {{}}
"""

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_pipeline_resolves(folder: Path, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(folder / name, tmp_path)
    run(tmp_path, "kdqat", "validate")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    listed = run(tmp_path, "dvc", "stage", "list", "--name-only").stdout.split()
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    assert {f"teacher@{task}" for task in params["tasks"]} <= set(listed)
    students = [name for name in listed if name.startswith("student@")]
    assert len(students) == len([name for name in listed if name.startswith("evaluate@")])
    assert len(students) % (len(params["tasks"]) * len(params["seeds"])) == 0
    groups = json.loads(run(tmp_path, "kdqat", "report", "--json").stdout)
    assert all(group["missing"] for group in groups)


def test_a_pipeline_runs(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    shutil.copy(REPOSITORY / "pipelines/clean-changes/dvc.yaml", tmp_path)
    shutil.copytree(tiny_task, tmp_path / "tasks")
    (tmp_path / "params.yaml").write_text(PARAMS.format(encoder=tiny_encoder), encoding="utf-8")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    run(tmp_path, "kdqat", "repro", "--jobs", "2")
    assert run(tmp_path, "dvc", "repro").stdout.endswith("Data and pipelines are up to date.\n")
    groups = json.loads(run(tmp_path, "kdqat", "report", "--json").stdout)
    assert [group["run"] for group in groups] == [None, "as-it-is", "no-clip"]
    for group in groups:
        assert not group["missing"]
    assert [seed["seed"] for seed in groups[1]["seeds"]] == [1, 2]
    assert "as-it-is" in (tmp_path / "report.md").read_text(encoding="utf-8")
