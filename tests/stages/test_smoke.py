"""Smoke runs: few rows and a teacher at chance; every result is marked as not to be quoted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kdqat_cli.analysis.result import read_analysis
from kdqat_cli.config import Params
from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.params import resolve
from kdqat_cli.stages.analyze import analyze
from kdqat_cli.stages.card import card
from kdqat_cli.stages.distill import distill
from kdqat_cli.stages.evaluate import evaluate
from kdqat_cli.stages.export import export
from kdqat_cli.stages.finetune_teacher import finetune_teacher
from kdqat_cli.stages.quantize import quantize
from kdqat_cli.stages.report import report, write_page
from kdqat_cli.tasks.records import recorded
from kdqat_cli.tasks.registry import load_task

pytestmark = pytest.mark.pipeline

TEACHER, STUDENT, PACKED = "runs/tiny/teacher", "runs/tiny/student/map-1", "runs/tiny/packed/map-1"
FEW = "it was trained on the first 16 rows"
WEAK = "its teacher is no better than a constant answer"


@pytest.fixture
def project(tmp_path: Path, tiny_encoder: Path, tiny_task: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The task `tiny`, in a working folder with a teacher of 16 rows that gives all rows the same answer."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_task, "tasks")
    task = load_task("tiny")
    settings = resolve("tiny", Params(), "smoke", {"teacher": {"limit": 16, "max_steps": 1}})
    finetune_teacher(task, str(tiny_encoder), settings, 1, None, Path(TEACHER), lambda *_: None)
    assert recorded(TEACHER).not_to_be_quoted == FEW
    weights = Path(TEACHER, "model/model.safetensors")
    state = load_file(weights)
    state["classifier.weight"].zero_()
    state["classifier.bias"][1] = 1.0
    save_file(state, weights, metadata={"format": "pt"})
    return task


def test_a_weak_teacher_is_refused_unless_it_is_allowed(project: Any) -> None:
    refused = resolve("tiny", Params())
    with pytest.raises(GateError, match="no better than a constant answer") as caught:
        quantize(project, TEACHER, refused, None, Path("ternary"))
    assert "--allow-weak-teacher" in str(caught.value.fix)
    allowed = resolve("tiny", Params(), None, {"distillation": {"weak_teacher": "allowed"}})
    quantize(project, TEACHER, allowed, None, Path("ternary"))
    assert recorded("ternary").not_to_be_quoted == WEAK


def test_every_result_of_a_smoke_run_is_marked(project: Any) -> None:
    changes: dict[str, dict[str, object]] = {"student": {"limit": 16, "max_steps": 1}, "distillation": {"loss": "map"}}
    settings = resolve("tiny", Params(), "smoke", changes)
    distill(project, TEACHER, settings, 1, None, Path(STUDENT), lambda *_: None)
    assert json.loads(Path(STUDENT, "run.json").read_text(encoding="utf-8"))["rows"] == 16
    export(STUDENT, Path(PACKED))
    for model in (STUDENT, PACKED):
        assert recorded(model).not_to_be_quoted == f"{WEAK}; {FEW}"
        out = Path(model.replace("runs", "metrics", 1) + ".json")
        assert evaluate(project, model, None, out)["not_to_be_quoted"] == f"{WEAK}; {FEW}"
        assert json.loads(out.read_text(encoding="utf-8"))["not_to_be_quoted"] == f"{WEAK}; {FEW}"
    groups = report()
    assert [group.not_to_be_quoted for group in groups] == [[f"{WEAK}; {FEW}"]] * 2
    assert all("smoke run, not to be quoted" in str(group.row()["model"]) for group in groups)
    analyze(project, TEACHER, {"map-1": STUDENT}, ["agreement"], None, Path("analysis/tiny"), lambda *_: None, rows=8)
    marks = [model.not_to_be_quoted for model in read_analysis(Path("analysis/tiny")).models]
    assert marks == [FEW, f"{WEAK}; {FEW}"]
    write_page(groups, Path("report.html"))
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.count(", smoke run, not to be quoted") >= len(groups) + len(marks)
    for path in (Path(PACKED, "model/README.md"), Path(card(PACKED)["file"])):
        text = path.read_text(encoding="utf-8")
        assert f"**A smoke run, not to be quoted: {WEAK}; {FEW}.**" in text
        assert "model-index" not in text
    whole = settings.model_copy(update={"student": settings.student.model_copy(update={"limit": None})})
    with pytest.raises(ConfigError, match="has a result of other settings"):
        distill(project, TEACHER, whole, 1, None, Path(STUDENT), lambda *_: None)


def test_a_limit_above_the_number_of_rows_has_no_effect(project: Any) -> None:
    settings = resolve("tiny", Params(), "smoke", {"student": {"limit": 1000, "max_steps": 1}})
    distill(project, TEACHER, settings, 1, None, Path("whole"), lambda *_: None)
    assert recorded("whole").not_to_be_quoted == WEAK
