"""The modules that a command depends on, and their check by `kdqat validate`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdqat_cli.errors import ConfigError
from kdqat_cli.parallel.dependencies import stale_stages
from kdqat_cli.parallel.modules import Modules
from kdqat_cli.stages.validate import validate
from tests.commands import REPOSITORY

SILENT = ("kdqat_cli", "kdqat_cli.errors", "kdqat_cli.output")
PIPELINE = """\
# a comment that stays
stages:
  student:
    matrix: {task: [a, b]}
    cmd: >-
      kdqat distill
      --task ${item.task}
    deps:
      - runs/teacher
      - kdqat_cli/stages/report.py
      - kdqat_cli/stages/distill.py
    outs: ["${item.task}"]  # and this one
  score:
    foreach: [a, b]
    do:
      cmd: [kdqat evaluate x, kdqat report]
      deps:
      - kdqat_cli/stages/evaluate.py
  apart:
    cmd: kdqat distill --task x
    deps: [data]
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "kdqat_cli", folder / "kdqat_cli", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def project(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copy)
    (copy / "params.yaml").write_text("tasks: []\n", encoding="utf-8")
    (copy / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    return copy


def covered(path: str, names: list[str]) -> bool:
    return any(Path(path).is_relative_to(name) for name in names)


@pytest.mark.parametrize("stage", ["finetune_teacher", "quantize", "distill", "export", "evaluate", "report"])
def test_the_imports_of_a_running_stage_are_among_its_modules(stage: str) -> None:
    names = Modules(REPOSITORY / "kdqat_cli").needed([f"kdqat {stage.replace('_', '-')} --task x"])
    program = f"import sys, kdqat_cli.stages.{stage}\nprint(*(name for name in sys.modules if name[:9] == 'kdqat_cli'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if name not in SILENT]
    files = [f"{name.replace('.', '/')}.py" for name in loaded if not (REPOSITORY / name.replace(".", "/")).is_dir()]
    assert len(files) > 3
    assert not [path for path in files if not covered(path, names)]


def test_the_order_in_which_modules_are_read_changes_nothing() -> None:
    """The order of sets of paths depends on the seed of hashes. A folder that is read contains modules too."""
    program = "from kdqat_cli.parallel.modules import Modules; print(Modules().needed(['kdqat evaluate x']))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123456"
    }
    assert len(found) == 1
    assert "kdqat_cli/store" in found.pop()


def test_a_student_depends_on_engine_metrics_rows_and_imports_in_functions() -> None:
    names = Modules(REPOSITORY / "kdqat_cli").needed(["cd x && kdqat distill --task rte"])
    for path in (
        "kdqat_cli/native/src/matrix.cpp",
        "kdqat_cli/engine/gpu/kernels.py",
        "kdqat_cli/tasks/metrics.py",
        "kdqat_cli/tasks/movie.yaml",
        "kdqat_cli/tasks/text/rows.py",
        "kdqat_cli/distillation/losses.py",
    ):
        assert covered(path, names), path
    for path in ("kdqat_cli/commands/training.py", "kdqat_cli/output.py", "kdqat_cli/stages/report.py"):
        assert not covered(path, names), path
    assert not covered("kdqat_cli/native/_native.so", names), "a different one on every machine"


def test_other_programs_need_no_modules_and_fetch_is_checked_by_hash() -> None:
    modules = Modules(REPOSITORY / "kdqat_cli")
    assert modules.needed(["kdqat fetch --needed"]) == ["kdqat_cli/stages/fetch.py"]
    assert modules.needed(["python train.py", "mykdqat distill", "kdqat --help"]) == []


def test_the_pipeline_of_the_repository_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert stale_stages(Path("dvc.yaml")) == []


def test_a_stale_list_is_an_error_and_fix_corrects_it(project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        validate([])
    assert caught.value.fix == "kdqat validate --fix"
    student, score = caught.value.sentence.splitlines()
    assert student.startswith("dvc.yaml: the stage student does not name kdqat_cli/")
    assert "; it names kdqat_cli/stages/report.py, on which it does not depend." in student
    assert score.startswith("dvc.yaml: the stage score does not name ")

    assert validate([], fix=True)["errors"] == 0
    text = (project / "dvc.yaml").read_text(encoding="utf-8")
    kept = [line for line in PIPELINE.splitlines() if "kdqat_cli/" not in line]
    assert [line for line in text.splitlines() if "kdqat_cli/" not in line] == kept, "everything else is unchanged"
    assert "      - runs/teacher\n      - kdqat_cli/" in text
    assert "      deps:\n      - kdqat_cli/" in text
    assert validate([])["errors"] == 0

    module = project / "kdqat_cli/tasks/text/rows.py"
    before = module.read_bytes()
    module.write_bytes(before + b"\n\ndef late():\n    import kdqat_cli.analysis.published\n")
    try:
        assert [entry.missing for entry in stale_stages(Path("dvc.yaml"))] == [
            ["kdqat_cli/analysis/published.py", "kdqat_cli/published"]
        ]
    finally:
        module.write_bytes(before)


def test_a_whole_package_may_be_named(project: Path) -> None:
    text = "stages:\n  student:\n    cmd: kdqat distill --task x\n    deps: [kdqat_cli]\n"
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    assert validate([])["dvc.yaml"] == "checked"
    (project / "dvc.yaml").write_text(text.replace("[kdqat_cli]", "[kdqat_cli/tasks]"), encoding="utf-8")
    with pytest.raises(ConfigError, match="one dependency per line"):
        validate([], fix=True)


def test_a_pipeline_outside_the_repository_is_not_checked(project: Path, tmp_path: Path) -> None:
    shutil.copy(project / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text("tasks: []\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert validate([])["errors"] == 0
