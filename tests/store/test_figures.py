"""run.json, metrics/*.json and history.csv: written and older files are read, and damage is one sentence."""

import json
from pathlib import Path

import pytest

from kdqat_cli.record import Record
from kdqat_cli.store.figures import (
    DamagedError,
    Evaluation,
    Factors,
    Metrics,
    Run,
    factors_of,
    holds_metrics,
    read_evaluations,
    read_metrics,
    read_run,
)
from tests.recipes import distillation, quantization


def test_a_run_is_read_back(tmp_path: Path) -> None:
    run = Run(seconds=1.5, device="a processor", threads=2, kernel="avx2", rows=10, steps=3, score=91.25)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run.to_json()), encoding="utf-8")
    assert read_run(path) == run
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == 1
    assert "half" not in run.to_json()


def test_files_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"seconds": 2, "device": "x86_64", "threads": 2, "rows": 9000, "score": 80.5}', encoding="utf-8")
    assert read_run(path) == Run(seconds=2.0, device="x86_64", threads=2, rows=9000, score=80.5)
    path.write_text('{"score": 80.5, "accuracy": 80.5, "rows": 1000}', encoding="utf-8")
    assert read_metrics(path).figures == {"score": 80.5, "accuracy": 80.5, "rows": 1000}
    assert read_metrics(path).model is None


def test_metrics_are_flat_and_have_their_factors(tmp_path: Path) -> None:
    settings: dict[str, object] = {"distillation": distillation("map", temperature=5.0).model_dump()}
    record = Record(kind="student", max_length=32, seed=7, quantization=quantization(), settings=settings)
    factors = factors_of(record, "rte")
    expected = Factors(task="rte", kind="student", seed=7, loss="map", weights="ternary", activations="int8")
    assert factors == expected.model_copy(update={"temperature": 5.0}), "map uses neither mix nor beta"
    metrics = Metrics.model_validate({"score": 50.0, "f1": 40.0, "rows": 277, "model": factors})
    path = tmp_path / "map-7.json"
    path.write_text(json.dumps(metrics.to_json()), encoding="utf-8")
    assert read_metrics(path) == metrics
    told = json.loads(path.read_text(encoding="utf-8"))
    assert list(told) == ["version", "score", "f1", "rows", "model"]
    assert "mix" not in told["model"]
    assert holds_metrics(json.dumps(told))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ("{}", "it has no score"),
        ('{"score": "high"}', "its score: input should be a valid number"),
        ('{"score": true}', "its score: input should be a valid number"),
        ('{"score": 1, "f1": NaN}', "its f1: input should be a finite number"),
        ('{"score": 1, "rows": true}', "its rows: input should be a valid number"),
        ('{"score": 1, "version": 2}', "it has version 2, but this kdqat reads version 1"),
        ('{"score": 1, "model": {"kind": "teacher"}}', "it has no model.task"),
    ],
)
def test_damaged_metrics_are_reported_in_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DamagedError) as caught:
        read_metrics(path)
    assert caught.value.reason == reason
    assert caught.value.sentence == f"{path} is damaged: {reason}."
    assert caught.value.fix


def test_a_history_gives_its_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,loss,score\n1,0.5,3.0,\n2,1.0,2.0,60.5\n4,2.0,1.0,70.25\n5,2.5,,\n", encoding="utf-8")
    assert read_evaluations(path) == ([Evaluation(2, 60.5), Evaluation(4, 70.25)], 5)
    for text in ("", "step,loss\n1,2\n", "step,score\nx,1\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DamagedError, match="it is not a history of a training"):
            read_evaluations(path)
