"""Task files: every packaged file, the user's own files, and files that are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdqat_cli.cli import app
from kdqat_cli.config import Params
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.params import recipe_names, resolve
from kdqat_cli.tasks.registry import load_task, load_text_task, task_names, user_task_names
from kdqat_cli.tasks.task import LabelledTask, check_keep_best
from kdqat_cli.tasks.text.schema import TextTask
from tests.recipes import training

GLUE = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]
MOOD = """\
name: mood
title: Mood of a sentence
files: {train: train.csv, dev: dev.csv}
columns: {text: sentence, label: mood}
labels: [sad, glad]
metric: accuracy
max_length: 32
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_required_tasks_are_packaged() -> None:
    others = ["klue-tc", "klue-sts", "nsmc", "movie", "digits", "cifar10", "cifar100"]
    others += ["multi30k", "integration", "wmt13"]
    assert task_names() == sorted([*GLUE, *others])


@pytest.mark.parametrize("name", task_names())
def test_every_shipped_file_loads(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.folder is None
    assert task.splits[0] == "dev"
    if isinstance(task, LabelledTask):
        assert task.num_labels == (1 if task.regression else len(task.labels or []))
    if isinstance(task, TextTask):
        assert task.hub is None or (task.hub.path.count("/") == 1 and {"train", "dev"} <= task.hub.splits.keys())


def test_the_metrics_of_the_paper() -> None:
    assert load_text_task("mnli").splits == ["dev", "mismatched"]
    assert load_text_task("stsb").metrics == ["pearson", "spearman"]
    assert load_text_task("klue-sts").metrics == ["pearson", "spearman"]
    assert load_text_task("klue-tc").metrics == ["accuracy", "macro_f1"]
    texts = [task for task in map(load_task, task_names()) if isinstance(task, TextTask)]
    assert {task.name for task in texts if task.max_length == 64} == {"cola", "sst2", "movie"}


def test_keep_best_must_be_a_metric_of_the_task() -> None:
    for name in ("score", "accuracy", "f1"):
        check_keep_best(load_text_task("mrpc"), "student", training(keep_best=name))
    with pytest.raises(
        ConfigError, match=r"student\.keep_best is accuracy, but task cola reports score, matthews"
    ) as told:
        check_keep_best(load_text_task("cola"), "student", training(keep_best="accuracy"))
    assert told.value.fix == "--set student.keep_best=score"


@pytest.mark.parametrize("recipe", recipe_names())
def test_keep_best_in_the_recipes_is_a_metric_of_their_tasks(recipe: str) -> None:
    for name in task_names():
        task = load_task(name)
        settings = resolve(name, Params(), recipe, kind=task.kind)
        check_keep_best(task, "teacher", settings.teacher)
        check_keep_best(task, "student", settings.student)


def test_a_users_task_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "tasks" / "mood.yaml", MOOD)
    assert load_text_task("mood").folder == Path("tasks")
    assert load_text_task(str(path)).folder == path.parent
    assert load_text_task("mood").model_dump() == load_text_task(str(path)).model_dump(), (
        "the place of a task file is not part of the task"
    )


def test_a_name_of_two_tasks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the packaged task nor the user's task silently replaces the other; the path gives the user's task."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "tasks" / "rte.yaml", MOOD.replace("name: mood", "name: rte"))
    sentence = r"^Two tasks are called rte: a packaged task and tasks/rte\.yaml\.$"
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_text_task("rte")
    assert caught.value.fix == "rename yours (file and name), or --task tasks/rte.yaml"
    assert load_text_task("tasks/rte.yaml").title == load_text_task(str(path)).title == "Mood of a sentence"
    for command in (["ls", "tasks"], ["validate"], ["finetune-teacher", "--task", "rte"]):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, "Two tasks are called rte" in done.stderr) == (2, True), command
    write(tmp_path / "tasks" / "mood.yaml", MOOD)
    write(tmp_path / "tasks" / "mood.yml", MOOD)
    with pytest.raises(ConfigError, match=r"called mood: tasks/mood\.yaml and tasks/mood\.yml"):
        load_text_task("mood")


def test_both_endings_of_yaml_and_no_hidden_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tasks" / "mood.yml", MOOD)
    for other in ("._mood.yml", ".mood.yaml", "mood.yaml~", "notes.txt"):
        write(tmp_path / "tasks" / other, "none of ours")
    assert user_task_names() == ["mood"]
    assert load_text_task("mood").folder == Path("tasks")


def test_an_unknown_name_gets_its_close_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tasks" / "moods.yaml", MOOD)
    for wrong, close in [("rt", "rte"), ("mood", "moods"), ("klue_tc", "klue-tc")]:
        with pytest.raises(ConfigError, match=f"no task '{wrong}'; did you mean .*{close}") as caught:
            load_text_task(wrong)
        assert caught.value.fix == "kdqat ls tasks"
    with pytest.raises(MissingInputError, match=r"no file gone\.yaml"):
        load_text_task("gone.yaml")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("name: mood", "name: food", "name is food, but the file's name is mood."),
        ("labels: [sad, glad]\n", "", "exactly one of labels"),
        ("labels:", "range: [0, 1]\nlabels:", "exactly one of labels"),
        ("[sad, glad]", "[sad, sad]", "labels: a name occurs twice."),
        ("[sad, glad]", "[caf\u00e9, cafe\u0301]", "labels: a name occurs twice."),
        ("[sad, glad]", "[sad, ' ']", "labels: a name is empty."),
        (
            "[sad, glad]",
            "[1, true]",
            'labels.0: input should be a valid string, but it is 1; write it in quotes: "1".',
        ),
        ("columns:", "header: [mood, sentence, mood]\ncolumns:", "header: the column 'mood' occurs twice."),
        (
            "labels: [sad, glad]\nmetric: accuracy",
            "range: [5, 0]\nmetric: pearson",
            "the smallest label must come first.",
        ),
        ("metric: accuracy", "metric: pearson", "metric: pearson does not fit a classification."),
        ("[sad, glad]\nmetric: accuracy", "[a, b, c]\nmetric: f1+accuracy", "metric: f1 needs two labels"),
        ("metric: accuracy", "metric: bleu", "metric: input should be"),
        (", dev: dev.csv", "", "files: dev must be given."),
        ("dev.csv", "dev.parquet", "files.dev: dev.parquet must end in one of"),
        ("files: {train: train.csv, dev: dev.csv}\n", "", "files or hub must be given."),
        ("columns:", "hub: {path: me/mood, splits: {}}\ncolumns:", "hub.splits: train and dev must be given."),
        (
            "columns:",
            "hub: {path: me/mood, splits: {train: a, dev: b}, columns: {text: a, pair: b, label: c}}\ncolumns:",
            "hub.columns: pair must be given here and in columns, or in neither.",
        ),
        ("max_length: 32", "max_len: 32", "max_len is not a known key; did you mean max_length?"),
        ("max_length: 32", "max_length: 32\nfolder: elsewhere", "folder: input should be"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in MOOD
    path = write(tmp_path / "mood.yaml", MOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_text_task(str(path))
    assert f"{path}: " in caught.value.sentence
    assert sentence in caught.value.sentence


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = MOOD.replace("[sad, glad]", "[sad, sad]").replace("dev.csv", "dev.parquet").replace("accuracy", "pearson")
    with pytest.raises(ConfigError) as caught:
        load_text_task(str(write(tmp_path / "mood.yaml", text)))
    assert len(caught.value.sentence.splitlines()) == 3


def test_tasks_import_nothing_heavy() -> None:
    code = """
import sys, kdqat_cli.tasks.registry, kdqat_cli.tasks.text.data
assert not {"torch", "transformers", "datasets"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
