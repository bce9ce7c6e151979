"""`kdqat evaluate --details`, `--teacher` and `--limit`, through the command line, on texts and on images."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import REPOSITORY, run

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny` (with a test split), its teacher, and the quantised copy of it."""
    folder = tmp_path_factory.mktemp("details")
    shutil.copytree(tiny_task, folder / "tasks")
    shutil.copy(folder / "tasks/dev.tsv", folder / "tasks/test.tsv")
    task = (folder / "tasks/tiny.yaml").read_text(encoding="utf-8")
    task = task.replace("dev: dev.tsv", "dev: dev.tsv, test: test.tsv")
    (folder / "tasks/tiny.yaml").write_text(task, encoding="utf-8")
    teach = ("--epochs", "4", "--batch-size", "8", "--learning-rate", "4e-3", "--encoder", str(tiny_encoder))
    run(folder, "kdqat", "finetune-teacher", "--task", "tiny", *teach)
    run(folder, "kdqat", "quantize", "--task", "tiny")
    return folder


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, "kdqat", "evaluate", *arguments, "--json").stdout)
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_agree_with_the_score(project: Path) -> None:
    plain = told(project, "runs/tiny/ternary")
    found = told(project, "runs/tiny/ternary", "--details", "d", "--teacher", "runs/tiny/teacher")
    assert plain.items() <= found.items(), "the same bits with every option"
    rows = [line.split("\t") for line in (project / "tasks/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    confusion = table(project / "d/confusion.csv")
    assert [row["actual"] for row in confusion] == [label for _, label in rows]
    wrong = table(project / "d/wrong.csv")
    assert len(wrong) == sum(row["actual"] != row["predicted"] for row in confusion)
    assert found["score"] == pytest.approx(100 * (1 - len(wrong) / 60))
    for row in wrong:
        assert [row["text"], row["label"]] == rows[int(row["row"]) - 1]
        assert 0.5 <= float(row["probability"]) <= 1
    assert 0 <= found["teacher_agreement"] <= 100
    assert [row["label"] for row in table(project / "d/classes.csv")] == ["sad", "glad"]
    assert (project / "d/test_wrong.csv").read_bytes() == (project / "d/wrong.csv").read_bytes()
    index = json.loads((project / "d/details.json").read_text(encoding="utf-8"))
    assert index["score"] == found["score"]
    assert "not_to_be_quoted" not in index


def test_dvc_draws_the_confusion_matrix(project: Path) -> None:
    told(project, "runs/tiny/teacher", "--details", "drawn")
    plots = "stages:\n  s:\n    cmd: 'true'\n    plots:\n      - drawn/confusion.csv:\n"
    plots += "          {x: actual, y: predicted, template: confusion}\n"
    (project / "dvc.yaml").write_text(plots, encoding="utf-8")
    run(project, "dvc", "init", "--no-scm", "--quiet")
    shutil.copy(REPOSITORY / ".dvc/config", project / ".dvc/config")
    shutil.copytree(REPOSITORY / ".dvc/plots", project / ".dvc/plots")
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert '"actual": "sad"' in page
    (project / "dvc.yaml").unlink()


def test_a_limited_score_is_marked(project: Path) -> None:
    found = told(project, "runs/tiny/teacher", "--limit", "7", "--out", "metrics/tiny/teacher.json", "--details", "few")
    assert found["rows"] == found["test_rows"] == 7
    assert found["not_to_be_quoted"] == "it was scored on the first 7 rows of a split"
    for name in ("metrics/tiny/teacher.json", "few/details.json"):
        assert json.loads((project / name).read_text(encoding="utf-8"))["not_to_be_quoted"] == found["not_to_be_quoted"]
    assert len(table(project / "few/confusion.csv")) == 7
    assert "smoke run, not to be quoted" in run(project, "kdqat", "report").stdout
    whole = told(project, "runs/tiny/teacher", "--limit", "1000")
    assert whole["rows"] == 60
    assert "not_to_be_quoted" not in whole


def test_only_files_of_an_earlier_evaluation_are_replaced(project: Path) -> None:
    told(project, "runs/tiny/teacher", "--details", "again")
    (project / "again/notes.txt").write_text("mine", encoding="utf-8")
    task = (project / "tasks/tiny.yaml").read_text(encoding="utf-8")
    (project / "tasks/tiny.yaml").write_text(task.replace(", test: test.tsv", ""), encoding="utf-8")
    told(project, "runs/tiny/teacher", "--details", "again")
    (project / "tasks/tiny.yaml").write_text(task, encoding="utf-8")
    names = {path.name for path in (project / "again").iterdir()}
    assert names == {"classes.csv", "confusion.csv", "wrong.csv", "details.json", "notes.txt"}
    (project / "mine").mkdir()
    (project / "mine/wrong.csv").write_text("years of work", encoding="utf-8")
    said = run(project, "kdqat", "evaluate", "runs/tiny/teacher", "--details", "mine", code=2).stderr
    assert "holds files that kdqat evaluate did not write" in " ".join(said.split())
    assert (project / "mine/wrong.csv").read_text(encoding="utf-8") == "years of work"
    said = run(project, "kdqat", "evaluate", "runs/tiny/teacher", "--details", "runs/tiny/teacher/d", code=2).stderr
    assert "is inside it" in " ".join(said.split())


def test_images_have_details_too(tmp_path: Path) -> None:
    run(tmp_path, "kdqat", "finetune-teacher", "--task", "digits", "--epochs", "1", "--network", "conv-digits-small")
    found = told(tmp_path, "runs/digits/teacher", "--details", "d", "--limit", "40", "--teacher", "runs/digits/teacher")
    assert found["teacher_agreement"] == 100
    wrong = table(tmp_path / "d/wrong.csv")
    assert list(wrong[0]) == ["row", "label", "predicted", "teacher", "probability"]
    assert len(wrong) == pytest.approx(40 * (1 - found["score"] / 100))
    assert len(table(tmp_path / "d/test_confusion.csv")) == 40


def test_a_regression_has_no_classes(rated_teacher: Path, rated_task: Path) -> None:
    found = told(rated_task, str(rated_teacher), "--task", "rated.yaml", "--details", "d")
    assert {path.name for path in (rated_task / "d").iterdir()} == {"wrong.csv", "details.json"}
    errors = [float(row["error"]) for row in table(rated_task / "d/wrong.csv")]
    assert len(errors) == found["rows"] == 60
    assert errors == sorted(errors, reverse=True)
