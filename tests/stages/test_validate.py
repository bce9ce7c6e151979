"""`kdqat validate` on folders with valid files, with no files, and with errors."""

from pathlib import Path

import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.stages.validate import validate
from tests.conftest import TASK

WHOLE = "{teacher: {}, student: {}, quantization: {}, distillation: {}}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(recipes: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(recipes or [])
    return caught.value.sentence


def test_an_empty_folder_is_not_reported_as_valid() -> None:
    with pytest.raises(MissingInputError, match=r"no params\.yaml, no dvc\.yaml and no tasks"):
        validate([])
    assert validate(["paper"])["recipes"] == ["paper", "clean"]


def test_it_names_the_files_that_exist_and_those_that_do_not() -> None:
    Path("params.yaml").write_text("tasks: []\n", encoding="utf-8")
    told = validate([])
    assert (told["params.yaml"], told["dvc.yaml"], told["errors"]) == ("checked", "not there", 0)


def test_settings_of_a_task_that_does_not_exist_are_an_error() -> None:
    Path("tasks").mkdir()
    Path("tasks/tiny.yaml").write_text(TASK, encoding="utf-8")
    Path("params.yaml").write_text(f"tasks: [tiny]\nsettings: {{tiny: {WHOLE}, tinny: {{}}, xyz: {{}}}}\n")
    said = faults()
    assert "params.yaml: settings.tinny: there is no such task; did you mean tiny?" in said
    assert "params.yaml: settings.xyz: there is no such task; `kdqat ls tasks` lists those there are." in said
    Path("mine.yaml").write_text(recipe("tinny"))
    Path("params.yaml").write_text(f"tasks: [tiny]\nsettings: {{tiny: {WHOLE}, rte: {{}}}}\n")
    assert faults(["mine.yaml"]) == "recipe mine.yaml: tasks.tinny: there is no such task; did you mean tiny?"


def recipe(task: str) -> str:
    from kdqat_cli.params import read_recipe

    return read_recipe("clean").replace("tasks: {}", f"tasks: {{{task}: {{student: {{epochs: 2}}}}}}")


def test_settings_of_a_task_that_the_pipeline_does_not_run_are_checked_too() -> None:
    Path("params.yaml").write_text("tasks: []\nsettings: {rte: {student: {epocs: 1}}}\n")
    assert "epocs is not a known key; did you mean epochs?" in faults()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: {a: {cmd: x", "dvc.yaml is not valid YAML"),
        ("stages:\n  a:\n    command: x\n", "DVC cannot read dvc.yaml"),
        ("stages:\n  a:\n    cmd: x ${nowhere}\n", "Could not find 'nowhere'"),
        (
            "stages:\n  a: {foreach: '${tasks}', do: {cmd: 'kdqat distill ${item.x}', deps: [kdqat_cli/x.py]}}\n",
            "item.x",
        ),
        ("- a\n", "DVC cannot read dvc.yaml"),
    ],
)
def test_a_pipeline_that_cannot_be_read_is_reported(text: str, told: str) -> None:
    Path("params.yaml").write_text("tasks: [rte]\nsettings: {rte: " + WHOLE + "}\n")
    Path("dvc.yaml").write_text(text)
    assert told in faults()
