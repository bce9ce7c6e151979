"""`kdqat init` for files whose rows have any number of labels: what it finds, and from a file to a packed model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run
from tests.test_init import Rows, found, refused, texts, write
from tests.test_multi_label import LABELS, sentences

SETS = [["a"], ["b"], ["a", "b"], ["c"], ["a", "c"], []]


def rows_of(make: Any, count: int = 180, column: str = "label") -> Rows:
    return [{"text": text, column: make(SETS[number % len(SETS)])} for number, text in enumerate(texts(count))]


@pytest.mark.parametrize("mark", [";", "|", ",", "; "])
def test_cells_with_separators_are_found_by_what_recombines(mark: str, tmp_path: Path) -> None:
    told = found(tmp_path, "topics.csv", rows_of(mark.join))
    assert (told["multi_label"], told["separator"]) == (True, mark.strip())
    assert told["labels"] == {"a": 90, "b": 60, "c": 60}
    assert (told["rows_without_label"], told["rows_with_several_labels"]) == (30, 60)
    assert "remark" not in told


def test_a_column_without_a_known_name_is_found(tmp_path: Path) -> None:
    assert found(tmp_path, "topics.csv", rows_of(";".join, column="what"))["label"] == "what"
    assert found(tmp_path, "topics.jsonl", rows_of(list, column="what"))["labels"] == {"a": 90, "b": 60, "c": 60}


def test_lists_of_json(tmp_path: Path) -> None:
    told = found(tmp_path, "topics.jsonl", rows_of(list))
    assert (told["multi_label"], told["separator"]) == (True, "|")
    assert "not one label per row" in refused(tmp_path, "topics.jsonl", "--single-label")


@pytest.mark.parametrize(
    "names",
    [
        ["health; beauty", "sports", "cars"],
        ["food, drinks", "food, other", "shoes"],
        ["a;b", "c;d"],
        ["billing", "billing; refund", "login", "other"],
        ["1,5", "2,5", "1,0", "2,0"],
    ],
)
def test_names_with_separators_stay_one_label(names: list[str], tmp_path: Path) -> None:
    rows: Rows = [{"text": text, "label": names[number % len(names)]} for number, text in enumerate(texts(180))]
    told = found(tmp_path, "rows.csv", rows)
    assert told["multi_label"] is False
    assert set(told["labels"]) == set(names)
    assert "--multi-label separates it" in told["remark"]
    parts = {part.strip() for name in names for part in name.split(";" if ";" in "".join(names) else ",")}
    assert set(found(tmp_path, "rows.csv", rows, "--multi-label")["labels"]) == parts


def test_recombined_names_may_be_forced_to_be_one_label(tmp_path: Path) -> None:
    rows = [row for row in rows_of(";".join) if row["label"]]
    told = found(tmp_path, "topics.csv", rows, "--single-label")
    assert told["labels"] == dict.fromkeys(["a", "a;b", "a;c", "b", "c"], 30)
    assert "separator" not in told
    assert "remark" not in told


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda held: str(held), [], "has lists as text, such as \"['a']\""),
        (lambda held: "b;a", ["--multi-label"], "has the labels 'a', 'b' in every row"),
        (
            lambda held: ";".join(held).replace("a;b", "a;B"),
            ["--multi-label"],
            "the labels 'B', 'b' differ only in case",
        ),
        (lambda held: {"a": 1}, ["--multi-label"], "which is not a list of labels"),
    ],
)
def test_labels_that_cannot_be_learnt(make: Any, options: list[str], sentence: str, tmp_path: Path) -> None:
    name = "topics.jsonl" if "list of" in sentence else "topics.csv"
    write(tmp_path, name, rows_of(make))
    assert sentence in " ".join(refused(tmp_path, name, *options).split())


def test_a_column_per_label_is_refused_with_the_remedy(tmp_path: Path) -> None:
    rows: Rows = [
        {"text": text} | {name: int(name in SETS[number % 6]) for name in "abc"}
        for number, text in enumerate(texts(150))
    ]
    write(tmp_path, "topics.csv", rows)
    error = " ".join(refused(tmp_path, "topics.csv").split())
    assert "the columns 'a', 'b', 'c' have only 0 and 1" in error
    assert "one column with the names of the row's labels" in error
    assert found(tmp_path, "topics.csv", rows, "--label-column", "b")["multi_label"] is False


@pytest.mark.pipeline
def test_from_a_file_to_a_packed_model(tmp_path: Path, tiny_encoder: Path) -> None:
    rows: Rows = [{"sentence": sentence, "moods": ";".join(held)} for sentence, held in sentences(320)]
    write(tmp_path, "moods.csv", rows)
    run(tmp_path, "kdqat", "init", "moods.csv", "--encoder", str(tiny_encoder), "--name", "mine")
    task = yaml.safe_load((tmp_path / "tasks/mine.yaml").read_text(encoding="utf-8"))
    assert (task["labels"], task["multi_label"], task["separator"]) == (sorted(LABELS), True, ";")
    assert (task["metric"], task["also"]) == ("micro_f1", ["macro_f1", "accuracy"])
    run(tmp_path, "kdqat", "validate")
    small = ("--task", "mine", "--batch-size", "8", "--learning-rate", "4e-3", "-q")
    run(tmp_path, "kdqat", "finetune-teacher", *small, "--epochs", "6")
    run(tmp_path, "kdqat", "distill", *small, "--epochs", "2", "--out", "student")
    run(tmp_path, "kdqat", "export", "--student", "student", "--out", "packed", "-q")
    assert json.loads(run(tmp_path, "kdqat", "evaluate", "packed", "--json").stdout)["micro_f1"] > 70
    answer = json.loads(run(tmp_path, "kdqat", "predict", "packed", "a good film .").stdout)
    assert set(answer["labels"]) <= set(answer["probabilities"]) == set(LABELS)
