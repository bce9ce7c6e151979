"""The report: means and spreads over seeds, what the paper has, and what is missing."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.stages.published import load_published, published_names
from kdqat_cli.stages.report import report, write_report
from kdqat_cli.tasks.registry import task_names

SIZE = {"bytes": 5_550_000, "ratio_to_fp32": 16.36, "rows": 277}
PIPELINE = """
stages:
  evaluate:
    matrix: {loss: [map, output], seed: [1, 2, 3]}
    cmd: "true"
    metrics: ["metrics/rte/student/${item.loss}-${item.seed}.json"]
  elsewhere:
    cmd: "true"
    metrics: [other/figure.json]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measure(name: str, score: float, seconds: float | None = None, **more: float) -> None:
    path = Path("metrics") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"score": score, **SIZE, **more}), encoding="utf-8")
    if seconds is not None:
        run = Path("runs") / name / "run.json"
        run.parent.mkdir(parents=True)
        run.write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def rows(**options: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(group.kind, group.run): group.row() for group in report(**options)}


def test_mean_and_sample_deviation_worked_by_hand() -> None:
    """54, 56, 61: mean 57, deviations -3, -1, 4, so √(26 / 2) = 3.6056."""
    for seed, score, seconds in ((1, 54.0, 10.0), (2, 56.0, 20.0), (10, 61.0, 60.0)):
        measure(f"rte/student/map+output-{seed}", score, seconds)
    row = rows()["student", "map+output"]
    assert row["score"] == "57.00 ± 3.61"
    assert row["seeds"] == "1: 54.00  2: 56.00  10: 61.00"
    assert row["seconds"] == 30
    assert row["MB"] == 5.55


def test_one_seed_has_no_spread_and_a_teacher_no_seeds() -> None:
    measure("rte/teacher", 60.29)
    measure("rte/student/score-7", 55.0)
    assert rows()["teacher", ""]["score"] == "60.29"
    assert rows()["teacher", ""]["seeds"] is None
    assert rows()["student", "score"]["score"] == "55.00"
    (group,) = [group for group in report() if group.kind == "student"]
    assert group.record()["std"] is None


def test_models_stand_in_the_order_of_the_pipeline() -> None:
    for name in ("rte/packed/map-1", "rte/student/map-1", "rte/ternary", "rte/teacher", "cola/teacher"):
        measure(name, 50.0)
    order = [(group.task, group.kind) for group in report()]
    assert order == [("cola", "teacher"), *(("rte", kind) for kind in ("teacher", "ternary", "student", "packed"))]


def test_what_the_pipeline_names_and_nobody_measured_is_missing() -> None:
    Path("dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    measure("rte/student/map-2", 52.0)
    measure("rte/student/mha-1", 51.0)  # not in the pipeline, but there
    assert set(rows()) == {("student", "map"), ("student", "output"), ("student", "mha")}
    assert rows()["student", "map"]["score"] == "52.00"
    assert rows()["student", "map"]["seeds"] == "1: missing  2: 52.00  3: missing"
    assert rows()["student", "output"]["score"] == "missing"
    (output,) = [group.record() for group in report() if group.run == "output"]
    assert output["missing"] == [1, 2, 3]
    assert output["mean"] is None


def test_nothing_at_all_is_an_error_that_names_the_command() -> None:
    with pytest.raises(MissingInputError) as caught:
        report()
    assert caught.value.fix == "dvc repro"


def test_a_broken_pipeline_is_told() -> None:
    Path("dvc.yaml").write_text("stages: {broken: {command: 1}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dvc\.yaml"):
        report()


def test_the_paper_stands_beside_teachers_and_students_only() -> None:
    for name in ("rte/teacher", "rte/student/map+output-1", "rte/packed/map+output-1", "rte/student/mine-1"):
        measure(name, 50.0)
    shown = {key: row["paper"] for key, row in rows(published="kim2022-table2").items()}
    assert shown["teacher", ""] == "73.28"
    assert shown["student", "map+output"] == "71.68 ± 1.19"
    assert shown["packed", "map+output"] is None
    assert shown["student", "mine"] is None
    with pytest.raises(ConfigError, match="no published table"):
        report("table2")


def test_further_splits_are_shown() -> None:
    measure("mnli/student/map-1", 84.0, mismatched_score=83.0)
    measure("mnli/student/map-2", 84.5, mismatched_score=84.0)
    assert rows()["student", "map"]["mismatched_score"] == 83.5


def test_the_files_hold_what_the_table_shows() -> None:
    Path("dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    measure("rte/student/map-1", 52.0, seconds=3.5)
    groups = report("kim2022-table2")
    for name in ("r.md", "r.csv", "r.json"):
        write_report(groups, Path(name))
    table = Path("r.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(groups)
    assert len({line.count("|") for line in table}) == 1
    assert "| 52.00 | 1: 52.00  2: missing  3: missing | 70.39 ± 0.78 |" in table[2]
    with Path("r.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], line["seed"], line["score"]) for line in lines[:2]] == [
        ("map", "1", "52.0"),
        ("map", "2", "missing"),
    ]
    assert lines[0]["seconds"] == "3.5"
    assert json.loads(Path("r.json").read_text(encoding="utf-8")) == [group.record() for group in groups]
    with pytest.raises(ConfigError, match=r"\.md, \.csv, \.json"):
        write_report(groups, Path("r.txt"))


@pytest.mark.parametrize("name", published_names())
def test_published_tables_name_known_tasks(name: str) -> None:
    table = load_published(name)
    assert "Kim et al." in table.source
    for cells in table.scores.values():
        assert set(cells) <= set(task_names())
        for mean, spread in cells.values():
            assert 0 < mean < 100
            assert spread is None or 0 < spread < 2


def test_table_2_has_the_mean_that_the_paper_prints() -> None:
    """81.87 over the eight tasks for map+output; 81.28 for the baseline."""
    table = load_published("kim2022-table2")
    for run, printed in (("map+output", 81.87), ("score", 81.28), ("map", 81.66), ("output", 81.33)):
        means = [mean for mean, _ in table.scores[run].values()]
        assert len(means) == 8
        assert sum(means) / 8 == pytest.approx(printed, abs=0.01)
