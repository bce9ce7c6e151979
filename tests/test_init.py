"""`kdqat init`: columns and labels that it finds in files of rows, files that it refuses, and running projects."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdqat_cli import __version__
from kdqat_cli.params import load_params
from kdqat_cli.projects.project import pipeline_names
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.split import split_of
from tests.commands import REPOSITORY, run
from tests.conftest import NEUTRAL

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}
Rows = list[dict[str, object]]


def texts(count: int) -> list[str]:
    """Different sentences."""
    return [f"the {NEUTRAL[number % 50]} of {NEUTRAL[number // 50]} and {number}" for number in range(count)]


def write(folder: Path, name: str, rows: Rows) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def found(folder: Path, name: str, rows: Rows, *options: str) -> dict[str, Any]:
    write(folder, name, rows)
    before = sorted(folder.rglob("*"))
    told: dict[str, Any] = json.loads(run(folder, "kdqat", "init", name, "--dry", "--json", *options).stdout)
    assert sorted(folder.rglob("*")) == before, "a dry run writes nothing"
    return told


def refused(folder: Path, *options: str, code: int = 2) -> str:
    before = sorted(folder.rglob("*"))
    error = run(folder, "kdqat", "init", *options, code=code).stderr
    assert sorted(folder.rglob("*")) == before, "nothing is written"
    return error


def test_text_and_label_are_found_by_name_and_by_content(tmp_path: Path) -> None:
    rows: Rows = [
        {"id": number, "when": f"2024-05-01 10:{number % 60:02}", "body": text, "urgent": ["no", "yes"][number % 2]}
        for number, text in enumerate(texts(200))
    ]
    told = found(tmp_path, "tickets.csv", rows)
    assert (told["task"], told["text"], told["label"]) == ("tickets", "body", "urgent")
    assert told["labels"] == {"no": 100, "yes": 100}
    assert sum(told["rows"].values()) == 200
    assert told["rows"]["train"] > 6 * told["rows"]["dev"] > 0
    assert told["would_write"] == ["dvc.yaml", "params.yaml", "recipe.yaml", "tasks/tickets.yaml"]
    assert "pair" not in told


@pytest.mark.parametrize("values", [[True, False], [1, 2, 3], ["neg", "pos"]])
def test_labels_of_json_lines(values: list[object], tmp_path: Path) -> None:
    rows: Rows = [
        {"text": text, "label": values[number % len(values)], "meta": {"source": "web"}}
        for number, text in enumerate(texts(180))
    ]
    told = found(tmp_path, "rows.jsonl", rows)
    names = ["false", "true"] if values[0] is True else sorted(map(str, values))
    assert told["labels"] == dict.fromkeys(names, 180 // len(values))


def test_pairs_are_found_by_their_usual_names(tmp_path: Path) -> None:
    rows: Rows = [
        {"hypothesis": f"it was {text}", "premise": text, "label": number % 3} for number, text in enumerate(texts(150))
    ]
    told = found(tmp_path, "own.tsv", rows)
    assert (told["text"], told["pair"]) == ("premise", "hypothesis")


def test_numbers_are_a_regression(tmp_path: Path) -> None:
    rows: Rows = [{"text": text, "score": number % 40 / 10} for number, text in enumerate(texts(150))]
    told = found(tmp_path, "rated.csv", rows)
    assert (told["range"], "labels" in told) == ([0.0, 4.0], False)


def test_a_script_without_spaces_is_text_and_needs_more_tokens(tmp_path: Path) -> None:
    rows: Rows = [{"t": f"これは良い映画でした{number}" * 10, "label": "ab"[number % 2]} for number in range(150)]
    assert found(tmp_path, "ja.csv", rows)["max_length"] == 128
    assert found(tmp_path, "ja.csv", rows)["text"] == "t"


def test_there_is_no_guess_between_two_possible_texts(tmp_path: Path) -> None:
    rows: Rows = [
        {"subject": f"about {text}", "body": text, "label": number % 2} for number, text in enumerate(texts(150))
    ]
    write(tmp_path, "mails.csv", rows)
    error = refused(tmp_path, "mails.csv")
    assert "several columns could be the text: 'subject', 'body'" in error
    assert "--text-column subject --pair-column body" in error
    assert found(tmp_path, "mails.csv", rows, "--text-column", "body")["text"] == "body"
    told = found(tmp_path, "mails.csv", rows, "--text-column", "body", "--pair-column", "subject")
    assert (told["text"], told["pair"]) == ("body", "subject")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda number: {"kind": f"k{number}"}, "no column looks like a label"),
        (lambda number: {"kind": number % 2, "team": number % 3}, "several columns could be the label"),
        (lambda number: {"label": "x"}, "has the value 'x' in every row"),
        (lambda number: {"label": ["Yes", "yes", "no"][number % 3]}, "'Yes', 'yes' differ only in case"),
        (lambda number: {"label": f"l{number}"}, "too many to learn them as labels"),
        (lambda number: {"label": "label" if number == 70 else "x"}, "is the name of a column and also a value in it"),
    ],
    ids=["none", "two", "one-class", "case", "as-many-as-rows", "header-again"],
)
def test_labels_that_cannot_be_learnt(change: Any, sentence: str, tmp_path: Path) -> None:
    write(tmp_path, "rows.csv", [{"body": text} | change(number) for number, text in enumerate(texts(150))])
    error = refused(tmp_path, "rows.csv")
    assert sentence in error
    assert "--label-column" in error or "spelling" in error or "a first line" in error


def test_too_few_rows_and_bad_rows(tmp_path: Path) -> None:
    rows: Rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts(150))]
    write(tmp_path, "few.csv", rows[:20])
    assert "few.csv has 20 rows" in refused(tmp_path, "few.csv", code=3)
    rows[70]["text"] = ""
    write(tmp_path, "bad.csv", rows)
    error = refused(tmp_path, "bad.csv", code=3)
    assert "bad.csv, line 72: the column 'text' is empty" in error
    assert "--skip-bad-rows" in error
    assert found(tmp_path, "bad.csv", rows, "--skip-bad-rows")["labels"] == {"0": 74, "1": 75}


def test_files_with_a_misleading_name(tmp_path: Path) -> None:
    (tmp_path / "semicolons.csv").write_text("text;label\n" + "a film;0\nthe plot;1\n" * 40, encoding="utf-8")
    error = refused(tmp_path, "semicolons.csv")
    assert "has only the column 'text;label'." in error
    assert "cells separated by commas in a .csv" in error
    (tmp_path / "quotes.tsv").write_text("text\tlabel\n" + '"a" film\t0\nthe plot\t1\n' * 40, encoding="utf-8")
    assert "--quoting, --no-quoting and --skip-bad-rows" in refused(tmp_path, "quotes.tsv", code=3)
    assert "There is no file nowhere.csv" in refused(tmp_path, "nowhere.csv", code=3)
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    assert "rows.xlsx must end in one of .tsv" in refused(tmp_path, "rows.xlsx")


def test_no_file_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "mine.csv", [{"text": text, "label": number % 2} for number, text in enumerate(texts(150))])
    (tmp_path / "params.yaml").write_text("tasks: []\n", encoding="utf-8")
    assert "params.yaml exists already; nothing was written" in refused(tmp_path, "mine.csv")
    assert "is the name of a packaged task" in refused(tmp_path, "mine.csv", "--name", "rte")
    assert "of the kind image" in refused(tmp_path, "--task", "digits")
    assert "three ways to begin" in refused(tmp_path, "mine.csv", "--pipeline", "table-2-glue")


def test_equal_texts_are_in_one_split() -> None:
    for text in texts(200):
        split = split_of([text, "the end"], SHARES)
        assert split_of([f"  {text.upper()} ", "the  end"], SHARES) == split
        assert split_of(["the end", text], SHARES) == split
    placed = [split_of([text], SHARES) for text in texts(2000)]
    for name, share in SHARES.items():
        assert abs(placed.count(name) / 2000 - share) < 0.04, "four standard deviations"


def test_splits_of_one_file_have_no_text_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts(150) * 2)]
    write(tmp_path, "mine.csv", rows)
    told = json.loads(run(tmp_path, "kdqat", "init", "mine.csv", "--json").stdout)
    assert told["repeated_texts"] == 150
    monkeypatch.chdir(tmp_path)
    task = load_text_task("mine")
    parts = {split: list(load_split(task, split)["text"]) for split in SHARES}
    assert sum(map(len, parts.values())) == 300
    assert len(set().union(*parts.values())) == sum(len(set(part)) for part in parts.values()) == 150
    run(tmp_path, "kdqat", "validate")


@pytest.mark.parametrize("in_git", [False, True])
def test_a_pipeline_of_the_paper(in_git: bool, tmp_path: Path) -> None:
    if in_git:
        run(tmp_path, "git", "init", "--quiet")
    chosen = ("--encoder", "owner/tiny", "--recipe", "smoke", "--seeds", "1,2")
    run(tmp_path, "kdqat", "init", "--pipeline", "table-2-glue", *chosen)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    ours = yaml.safe_load((REPOSITORY / "pipelines/table-2-glue/params.yaml").read_text(encoding="utf-8"))
    changed = {"kdqat_version": __version__, "encoder": "owner/tiny", "recipe": "smoke", "seeds": [1, 2]}
    assert params == ours | changed
    assert not (tmp_path / "dvc.yaml").is_symlink()
    assert "student@rte-run0-1" in run(tmp_path, "dvc", "stage", "list", "--name-only").stdout
    assert ("no_scm" in (tmp_path / ".dvc/config").read_text(encoding="utf-8")) is not in_git
    assert "the pipelines are" in refused(tmp_path, "--pipeline", "table-3")


def test_every_pipeline_is_packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pipeline_names() == sorted(path.parent.name for path in (REPOSITORY / "pipelines").glob("*/params.yaml"))
    monkeypatch.chdir(tmp_path)
    assert load_params().kdqat_version is None


@pytest.mark.pipeline
def test_a_project_runs_and_another_version_is_refused(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    rows = [
        line.split("\t")
        for name in ("train", "dev")
        for line in (tiny_task / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    write(tmp_path, "moods.csv", [{"sentence": sentence, "mood": mood} for sentence, mood in rows])
    run(tmp_path, "kdqat", "init", "moods.csv", "--encoder", str(tiny_encoder), "--recipe", "smoke", "--seeds", "1")
    run(tmp_path, "kdqat", "repro", "--jobs", "2")
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len(lines) == 4
    assert all("smoke run, not to be quoted" in line for line in lines)
    assert (tmp_path / "report.html").is_file()
    answer = run(tmp_path, "kdqat", "predict", "runs/moods/packed/map+output-1", "a good film .").stdout
    assert json.loads(answer)["label"] in ("glad", "sad")
    metrics = json.loads((tmp_path / "metrics/moods/packed/map+output-1.json").read_text(encoding="utf-8"))
    assert metrics["not_to_be_quoted"]
    assert {"score", "test_score"} <= metrics.keys()
    assert "11 of 11 stages unchanged" in run(tmp_path, "kdqat", "repro", "--dry").stderr

    params = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params.replace(f'"{__version__}"', '"0.0.1"'), encoding="utf-8")
    for command in (["repro", "--dry"], ["validate"], ["quantize", "--task", "moods"]):
        assert "kdqat_version is 0.0.1, but this is" in run(tmp_path, "kdqat", *command, code=2).stderr


@pytest.mark.pipeline
def test_the_users_own_teacher_replaces_the_training(tmp_path: Path, tiny_task: Path, tiny_encoder: Path) -> None:
    """Only its folder is needed: the record names the task; the training stage copies the teacher and its answers."""
    shutil.copytree(tiny_task, tmp_path / "tasks")
    trained = ("--set", "teacher.learning_rate=4e-3", "--epochs", "4", "--batch-size", "8", "--seed", "1")
    run(
        tmp_path,
        "kdqat",
        "finetune-teacher",
        "--task",
        "tiny",
        "--encoder",
        str(tiny_encoder),
        *trained,
        "--out",
        "own",
    )
    run(tmp_path, "kdqat", "init", "own")
    told = json.loads(run(tmp_path, "kdqat", "finetune-teacher", "--task", "tiny", "--json").stdout)
    scores = [
        json.loads((tmp_path / place / "run.json").read_text())["score"] for place in ("own", "runs/tiny/teacher")
    ]
    assert told["score"] == scores[0] == scores[1]
    weights = [(tmp_path / place / "model/model.safetensors").read_bytes() for place in ("own", "runs/tiny/teacher")]
    assert weights[0] == weights[1]
    assert (tmp_path / "runs/tiny/teacher/history.csv").read_text(encoding="utf-8").startswith("step,epoch,")
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert "fetch" not in stages
    assert "own/model" in stages["teacher"]["deps"]
    error = run(tmp_path, "kdqat", "finetune-teacher", "--task", "tiny", "--encoder", "x/y", code=2).stderr
    assert "--encoder has no meaning: teacher.model is own" in error
    over = ("--over", "distillation.beta=0.5", "--teacher", "own", "--recipe", "smoke", "--seeds", "1")
    rows = json.loads(run(tmp_path, "kdqat", "sweep", "one", *over, "--json").stdout)
    assert rows[0]["score"] is not None
    swept = yaml.safe_load((tmp_path / "sweeps/one/dvc.yaml").read_text(encoding="utf-8"))["stages"]["student"]
    assert "own/model" in swept["deps"]
    assert "--teacher own" in swept["cmd"]
