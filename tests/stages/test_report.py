"""The report: means and spreads over seeds, the numbers of the paper, and missing results."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.analysis.published import load_published, published_names
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.record import ModelKind, Record
from kdqat_cli.stages.report import report, write_report
from kdqat_cli.store.figures import Factors
from kdqat_cli.tasks.registry import task_names
from tests.recipes import quantization

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


def measure(name: str, score: float, seconds: float | None = None, **more: Any) -> None:
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
    """54, 56, 61: the mean is 57, the deviations are -3, -1 and 4, so √(26 / 2) = 3.6056."""
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


def test_models_are_in_the_order_of_the_pipeline() -> None:
    for name in ("rte/packed/map-1", "rte/student/map-1", "rte/ternary", "rte/teacher", "cola/teacher"):
        measure(name, 50.0)
    order = [(group.task, group.kind) for group in report()]
    assert order == [("cola", "teacher"), *(("rte", kind) for kind in ("teacher", "ternary", "student", "packed"))]


def test_unmeasured_models_of_the_pipeline_are_missing() -> None:
    Path("dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    measure("rte/student/map-2", 52.0)
    measure("rte/student/mha-1", 51.0)  # measured, but not in the pipeline
    assert set(rows()) == {("student", "map"), ("student", "output"), ("student", "mha")}
    assert rows()["student", "mha"]["model"] == "distilled, not in dvc.yaml"
    assert rows()["student", "map"]["model"] == "distilled"
    assert rows()["student", "map"]["score"] == "52.00"
    assert rows()["student", "map"]["seeds"] == "1: missing  2: 52.00  3: missing"
    assert rows()["student", "output"]["score"] == "missing"
    (output,) = [group.record() for group in report() if group.run == "output"]
    assert output["missing"] == [1, 2, 3]
    assert output["mean"] is None


def test_a_run_outside_the_pipeline_has_its_own_row_and_is_in_no_mean() -> None:
    Path("dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    measure("rte/student/map-1", 52.0)
    measure("rte/student/map-9", 90.0)  # a seed that was removed
    measure("cola/teacher", 58.0)  # a task that was removed
    groups = report()
    assert [(group.task, group.run, group.current) for group in groups] == [
        ("rte", "map", True),
        ("rte", "output", True),
        ("cola", "", False),
        ("rte", "map", False),
    ]
    assert groups[0].row()["score"] == "52.00"
    assert groups[2].row()["model"] == "teacher, FP32, not in dvc.yaml"
    assert [group.record()["current"] for group in groups] == [True, True, False, False]


def test_without_a_pipeline_all_runs_are_current() -> None:
    measure("cola/teacher", 58.0)
    Path("dvc.yaml").write_text("stages: {one: {cmd: 'true'}}", encoding="utf-8")  # this pipeline measures nothing
    assert [group.row()["model"] for group in report()] == ["teacher, FP32"]


def record_weights(name: str, weights: str) -> None:
    path = Path("runs") / name / "model/kdqat.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = Record(quantization=quantization(weights=weights))
    path.write_text(json.dumps(record.to_json()), encoding="utf-8")


def test_a_model_has_the_name_of_its_record() -> None:
    for name, weights in (("map-1", "int8"), ("mine-1", "ternary"), ("both-1", "int8"), ("both-2", "int4")):
        measure(f"rte/student/{name}", 50.0)
        record_weights(f"rte/student/{name}", weights)
    for name in ("rte/ternary", "rte/ternary-int8", "rte/student/lost-1"):
        measure(name, 50.0)
    record_weights("rte/ternary-int8", "int8")
    shown = {key: (row["model"], row["paper"]) for key, row in rows(published="kim2022-table2").items()}
    assert shown["student", "map"] == ("int8, distilled", None), "the paper's student is ternary"
    assert shown["student", "mine"] == ("ternary, distilled", None)
    assert shown["student", "both"] == ("int4/int8, distilled", None)
    assert shown["student", "lost"] == ("distilled", None)
    assert shown["ternary", ""] == ("no training", None)
    assert shown["ternary", "int8"] == ("int8, no training", None)


def test_factors_are_read_from_the_file_not_from_its_name() -> None:
    for seed, score in ((1, 50.0), (2, 52.0)):
        model = Factors(task="rte", kind="student", seed=seed, loss="map+output", mix="SM1", weights="int8")
        measure(f"rte/student/SM1-{seed}", score, model=model.model_dump(exclude_none=True))
    # Names with another meaning: a run whose name ends in a number, and a packed model in another folder.
    measure("rte/student/top-3", 40.0, model={"task": "rte", "kind": "student", "seed": 42, "weights": "ternary"})
    measure("rte/mine/best-9", 60.0, model={"task": "cola", "kind": "packed", "seed": 9, "weights": "ternary"})
    measure("rte/teacher", 70.0, model={"task": "rte", "kind": "teacher", "seed": 42})
    groups = {(group.task, group.kind, group.run): group for group in report()}
    mixed = groups["rte", "student", "SM1"]
    assert mixed.row()["seeds"] == "1: 50.00  2: 52.00"
    assert mixed.row()["model"] == "int8, distilled"
    assert groups["rte", "student", "top-3"].row()["seeds"] == "42: 40.00"
    assert groups["cola", "packed", "best"].row()["seeds"] == "9: 60.00"
    assert groups["rte", "teacher", ""].row()["seeds"] is None
    assert len(groups) == 4


def test_a_damaged_run_is_reported_and_its_time_left_out() -> None:
    measure("rte/student/map-1", 52.0)
    path = Path("runs/rte/student/map-1/run.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": "long"}', encoding="utf-8")
    told: list[str] = []
    assert report(remark=told.append)[0].row()["seconds"] is None
    assert told == [
        f"{path} is damaged: its seconds: input should be a valid number. The time of this run is left out."
    ]


def test_other_files_are_left_out_with_a_remark() -> None:
    measure("rte/student/map-1", 52.0)
    measure("rte/student/nan-1", float("nan"))
    measure("rte/student/other-1", 50.0, accuracy=float("inf"))
    odd = {
        "rte/student/text-1": "no JSON",
        "rte/student/list-1": "[1]",
        "rte/student/none-1": "{}",
        "rte/student/words-1": '{"score": "high"}',
        "rte/student/deep-1": "[" * 100_000,
        "shallow": '{"score": 1}',
        "rte/student/sub/map-1": '{"score": 1}',
        "rte/student/²-²": '{"score": 1}',
    }
    for name, text in odd.items():
        path = Path("metrics") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    Path("metrics/rte/student/latin-1.json").write_bytes(b'{"score": "\xff"}')
    Path("metrics/rte/student/folder-1.json").mkdir()
    Path("metrics/rte/student/link-1.json").symlink_to("nowhere")
    os.mkfifo("metrics/rte/student/pipe-1.json")
    told: list[str] = []
    assert {group.run for group in report(remark=told.append)} == {"map", "²-²"}
    names = [*odd.keys() - {"rte/student/²-²"}]
    names += [f"rte/student/{name}-1" for name in ("nan", "other", "latin", "folder", "link", "pipe")]
    assert sorted(text.partition(" is left out: ")[0] for text in told) == sorted(f"metrics/{x}.json" for x in names)


def test_an_invalid_measurement_is_missing() -> None:
    Path("dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    path = Path("metrics/rte/student/map-1.json")
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    told: list[str] = []
    assert report(remark=told.append)[0].record()["missing"] == [1, 2, 3]
    assert told == [f"{path} is left out: it is not JSON."]


def test_an_invalid_record_of_a_run_does_not_stop_the_report() -> None:
    measure("rte/student/map-1", 52.0)
    for text in ("{", "[]", '{"seconds": "long"}', "{}"):
        path = Path("runs/rte/student/map-1/run.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        assert rows()["student", "map"]["seconds"] is None
    Path("runs/rte/student/map-1/model").write_text("a file", encoding="utf-8")
    assert rows()["student", "map"]["model"] == "distilled"


def test_without_results_an_error_names_the_command() -> None:
    with pytest.raises(MissingInputError) as caught:
        report()
    assert caught.value.fix == "dvc repro"


def test_a_broken_pipeline_is_reported() -> None:
    Path("dvc.yaml").write_text("stages: {broken: {command: 1}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dvc\.yaml"):
        report()


def test_published_numbers_are_shown_only_beside_teachers_and_students() -> None:
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


def test_the_files_have_the_content_of_the_table() -> None:
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
        ("map", "2", ""),
    ]
    assert [line["seconds"] for line in lines[:2]] == ["3.5", ""]
    assert json.loads(Path("r.json").read_text(encoding="utf-8")) == [group.record() for group in groups]
    with pytest.raises(ConfigError, match=r"\.md, \.csv, \.json"):
        write_report(groups, Path("r.txt"))


@pytest.mark.parametrize("name", published_names())
def test_published_tables_name_known_tasks(name: str) -> None:
    table = load_published(name)
    assert table.source.startswith({"kim2022": "Kim et al.", "polino2018": "Polino et al."}[name.partition("-")[0]])
    for cells in table.scores.values():
        assert set(cells) <= set(task_names())
        for quantity, value in [pair for cell in cells.values() for pair in cell.items()]:
            if value is not None:
                mean, spread = value
                assert 0 < mean < (200 if quantity == "MB" else 100)
                assert spread is None or 0 < spread < 2


def test_unknown_published_numbers_are_shown_as_not_known() -> None:
    scored = {"test_score": 87.0, "bits_per_weight": 2.5}
    models: list[tuple[str, ModelKind, str | None]] = [
        ("student/student-1-qd-4", "packed", "uniform"),
        ("student/student-1-dq-8", "packed", "points"),
        ("student/student-1-full", "student", "fp32"),
        ("teacher", "teacher", None),
    ]
    for name, kind, weights in models:
        model = Factors(task="cifar10", kind=kind, seed=1, weights=weights)
        measure(
            f"cifar10/{name}{'-1' * (kind != 'teacher')}", 86.0, model=model.model_dump(exclude_none=True), **scored
        )
    shown = rows(published="polino2018-tables9-14")
    row = shown["packed", "student-1-qd-4"]
    assert (row["model"], row["test_score"], row["paper test_score"]) == ("uniform, packed", 87.0, "88.00")
    assert (row["MB"], row["paper MB"], row["bits_per_weight"], row["paper bits"]) == (
        5.55,
        "not known",
        2.5,
        "not known",
    )
    assert "paper" not in row, "the table has no scores on dev"
    assert shown["packed", "student-1-dq-8"]["paper test_score"] is None, "the table has no such row"
    assert shown["student", "student-1-full"]["paper MB"] == "4.00"
    assert shown["teacher", ""]["paper test_score"] == "89.71"
    groups = report("polino2018-tables9-14")
    for name in ("r.md", "r.csv", "r.json"):
        write_report(groups, Path(name))
    assert "| 88.00 | not known |" in Path("r.md").read_text(encoding="utf-8")
    with Path("r.csv").open(encoding="utf-8") as file:
        line = next(line for line in csv.DictReader(file) if line["run"] == "student-1-qd-4")
    assert (line["published_test_score"], line["published_MB"], line["published_mean"]) == ("88.0", "not known", "")
    (record,) = [group.record() for group in groups if group.run == "student-1-qd-4"]
    assert record["published"] == {"test_score": [88.0, None], "MB": None, "bits": None}


@pytest.mark.parametrize("tables", ["15-17", "21-23", "24-26", "29-30"])
def test_tables_without_a_number_in_the_specification(tables: str) -> None:
    table = load_published(f"polino2018-tables{tables}")
    values = [value for cells in table.scores.values() for cell in cells.values() for value in cell.values()]
    assert set(values) == {None}


def test_table_2_has_the_mean_of_the_paper() -> None:
    """81.87 over the eight tasks for map+output; 81.28 for the baseline."""
    table = load_published("kim2022-table2")
    for run, printed in (("map+output", 81.87), ("score", 81.28), ("map", 81.66), ("output", 81.33)):
        means = [cell["score"][0] for cell in table.scores[run].values() if cell["score"]]
        assert len(means) == 8
        assert sum(means) / 8 == pytest.approx(printed, abs=0.01)
