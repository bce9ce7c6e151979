"""The real dvc.yaml, run by DVC on a tiny encoder and a tiny task."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.commands import REPOSITORY

STUDENT = "runs/tiny/student/map+output-1"
PARAMS = """\
recipe: recipe.yaml
encoder: {encoder}
data_dir: null
tasks: [tiny]
losses: [map+output]
seeds: [1]
settings:
  tiny:
    teacher: {{epochs: 12, batch_size: 8, learning_rate: 4e-3}}
    student: {{epochs: {epochs}, batch_size: 8, learning_rate: 1e-3}}
    quantization: {{}}
    distillation: {{}}
"""

pytestmark = pytest.mark.pipeline


def run(folder: Path, *command: str) -> str:
    done = commands.run(folder, *command, DVC_NO_ANALYTICS="1")
    return done.stdout + done.stderr


def set_params(folder: Path, encoder: Path, epochs: int) -> None:
    (folder / "params.yaml").write_text(PARAMS.format(encoder=encoder, epochs=epochs), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A project folder after its first `dvc repro`."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    shutil.copy(REPOSITORY / ".dvcignore", folder)
    shutil.copytree(REPOSITORY / "kdqat_cli", folder / "kdqat_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tiny_task, folder / "tasks")
    (folder / "recipe.yaml").write_text(run(folder, "kdqat", "recipe", "clean"), encoding="utf-8")
    set_params(folder, tiny_encoder, epochs=4)
    run(folder, "kdqat", "validate")
    run(folder, "dvc", "init", "--no-scm", "--quiet")
    run(folder, "dvc", "repro")
    return folder


def test_every_model_is_scored(project: Path) -> None:
    metrics = {
        name: read_json(project / "metrics/tiny" / f"{name}.json")
        for name in ("teacher", "ternary", "student/map+output-1", "packed/map+output-1")
    }
    teacher, student, packed = metrics["teacher"], metrics["student/map+output-1"], metrics["packed/map+output-1"]
    assert teacher["score"] > 90
    assert student["score"] > 75
    assert student["score"] == packed["score"]
    assert packed["bytes"] < student["bytes"] / 3  # such a small model is mostly header and LayerNorm
    assert packed["rows"] == 60


def test_dvc_understands_metrics_and_plots(project: Path) -> None:
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["metrics/tiny/teacher.json"]["data"]["score"] > 90
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert "student/map+output-1/history.csv" in page
    with (project / STUDENT / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows if row["score"]] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows] == list(range(1, 101)), "with so few steps, every step is logged"
    assert all(float(row[f"loss_{term}"]) > 0 for row in rows for term in ("logits", "hidden", "map", "output"))


def test_report_shows_every_model(project: Path) -> None:
    rows = json.loads(run(project, "kdqat", "report", "--json"))
    assert [row["model"] for row in rows] == ["teacher", "ternary", "student", "packed"]
    assert [[seed["seed"] for seed in row["seeds"]] for row in rows] == [[None], [None], [1], [1]]
    assert all(seed["seconds"] > 0 and not row["missing"] for row in rows for seed in row["seeds"])
    table = (project / "report.md").read_text(encoding="utf-8")
    assert table.count("\n") == 2 + len(rows)
    for words in ("teacher, FP32", "ternary, no training", "ternary, distilled", "ternary, packed"):
        assert words in table


def test_a_second_run_does_nothing_and_reports_it(project: Path) -> None:
    assert "Data and pipelines are up to date." in run(project, "dvc", "repro")


def test_a_change_reruns_only_what_depends_on_it_and_the_run_cache_undoes_it(project: Path, tiny_encoder: Path) -> None:
    before = (project / STUDENT / "model/model.safetensors").read_bytes()
    set_params(project, tiny_encoder, epochs=1)
    said = run(project, "dvc", "repro")
    for stage in ("teacher@tiny", "evaluate-task@tiny-teacher"):
        assert f"Stage '{stage}' didn't change" in said
    # The ternary model uses the student's settings of rows; the number of epochs does not change it.
    assert "Running stage 'ternary@tiny'" in said
    assert "Stage 'evaluate-task@tiny-ternary' didn't change" in said
    for stage in ("student@tiny-map+output-1", "packed@tiny-map+output-1", "evaluate-run@tiny-packed-map+output-1"):
        assert f"Running stage '{stage}'" in said
    assert (project / STUDENT / "model/model.safetensors").read_bytes() != before

    set_params(project, tiny_encoder, epochs=4)
    said = run(project, "dvc", "repro")
    assert "Running stage" not in said
    assert "is cached - skipping run" in said
    assert (project / STUDENT / "model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("module", ["native/src/matrix.cpp", "tasks/metrics.py", "tasks/text/rows.py"])
def test_a_change_of_the_engine_or_a_metric_makes_its_results_stale(project: Path, module: str) -> None:
    path = project / "kdqat_cli" / module
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    try:
        stale = json.loads(run(project, "dvc", "status", "--json"))
    finally:
        path.write_bytes(before)
    assert {"teacher@tiny", "ternary@tiny", "student@tiny-map+output-1"} <= stale.keys()
    assert {"packed@tiny-map+output-1", "evaluate-run@tiny-student-map+output-1"} <= stale.keys()
    # The report reads packed records; their check imports the families of networks, and their attention the library.
    assert ("report" in stale) == module.startswith("native/")


def test_the_same_seed_gives_the_same_bits(project: Path) -> None:
    again = project / "again"
    run(project, "kdqat", "distill", "--task", "tiny", "--seed", "1", "--out", str(again))
    first = (project / STUDENT / "model/model.safetensors").read_bytes()
    assert (again / "model/model.safetensors").read_bytes() == first


def test_a_sweep_reuses_the_teacher_and_writes_a_recipe(project: Path) -> None:
    over = ["--over", "distillation.beta=0.5,0.9", "--over", "student.epochs=1"]
    done = commands.run(project, "kdqat", "sweep", "betas", *over, "--seeds", "1", "--json", "--jobs", "2")
    rows = json.loads(done.stdout)
    assert [row["beta"] for row in rows] == ["0.5", "0.9"]
    assert [row["score"] for row in rows if row["best"]] == [max(row["score"] for row in rows)]
    assert "student@tiny-0.5-1-1: step 25 of 25, dev score" in done.stderr
    assert "settings.tiny.student.epochs, which overrides" in done.stderr
    assert "teacher@tiny: running" not in done.stderr
    assert "Data and pipelines are up to date." in run(project, "dvc", "repro", "sweeps/betas/dvc.yaml")
    run(project, "kdqat", "validate", "--recipe", "sweeps/betas/best.yaml")
