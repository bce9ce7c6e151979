"""Outputs that the commands refuse to overwrite before they compute anything, and the permissions of their files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.config import Params
from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.params import resolve
from kdqat_cli.stages.distill import distill
from kdqat_cli.stages.evaluate import evaluate
from kdqat_cli.stages.export import export
from kdqat_cli.stages.finetune_teacher import finetune_teacher
from kdqat_cli.stages.quantize import quantize
from kdqat_cli.stages.report import report, write_report
from kdqat_cli.stages.sweep import plan_sweep
from kdqat_cli.tasks.registry import load_text_task
from tests.commands import run

TEACH = ("finetune-teacher", "--task", "tiny", "--epochs", "4", "--batch-size", "8", "--learning-rate", "4e-3")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny`, a teacher, a quantised copy of it, and a packed folder."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_task, folder / "tasks")
    shutil.copytree(tiny_encoder, folder / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = resolve("tiny", Params(), None, {"teacher": {"epochs": 4.0, "batch_size": 8, "learning_rate": 4e-3}})
        finetune_teacher(
            load_text_task("tiny"), "encoder", settings, 42, None, Path("runs/tiny/teacher"), lambda *_: None
        )
        make("quantize", "runs/tiny/teacher", "runs/tiny/ternary")
        make("export", "runs/tiny/ternary", "packed")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(command: str, source: str, out: str, data_dir: Path | None = None) -> None:
    """Runs a stage on a model, without showing its progress."""
    task = load_text_task("tiny")
    settings = resolve("tiny", Params())
    if command == "finetune-teacher":
        finetune_teacher(task, source, settings, 1, data_dir, Path(out), lambda *_: None)
    elif command == "distill":
        distill(task, source, settings, 1, data_dir, Path(out), lambda *_: None)
    elif command == "quantize":
        quantize(task, source, settings, data_dir, Path(out))
    else:
        export(source, Path(out), format_name="dense" if command == "export dense" else "packed", task=task)


@pytest.mark.parametrize(
    ("command", "source"),
    [
        ("finetune-teacher", "encoder"),
        ("distill", "runs/tiny/teacher"),
        ("quantize", "runs/tiny/teacher"),
        ("export", "runs/tiny/ternary"),
        ("export dense", "runs/tiny/ternary/model"),
    ],
)
def test_an_output_that_is_the_input_is_refused(inside: Path, command: str, source: str) -> None:
    (inside / "link").symlink_to(source)
    before = contents(inside)
    for out in (source, "link", f"{source}/new", f"tasks/../{source}"):
        with pytest.raises(ConfigError, match=r"is inside it|which is an input"):
            make(command, source, out)
    assert contents(inside) == before


def test_an_output_that_is_the_data_is_refused(inside: Path) -> None:
    before = contents(inside)
    for out, data_dir in (("tasks", None), ("tasks", Path("tasks")), (".", Path())):
        with pytest.raises(ConfigError, match="would write over the folder"):
            make("quantize", "runs/tiny/teacher", out, data_dir)
    assert contents(inside) == before


@pytest.mark.parametrize("command", ["finetune-teacher", "distill", "quantize", "export"])
def test_a_folder_of_the_user_is_not_changed(inside: Path, command: str) -> None:
    (inside / "mywork/model").mkdir(parents=True)
    (inside / "mywork/model/thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="mywork/model would be replaced, but kdqat did not write it"):
        make(command, "encoder" if command == "finetune-teacher" else "runs/tiny/ternary", "mywork")
    assert contents(inside / "mywork") == {"model/thesis.tex": b"years of work"}


def test_other_settings_need_force_and_equal_ones_do_not(inside: Path) -> None:
    said = run(inside, "kdqat", *TEACH, "--encoder", "encoder", "--seed", "7", code=2).stderr
    assert "runs/tiny/teacher has a result of other settings: seed is 42 there, now 7." in said
    assert "--force" in said
    before = contents(inside / "runs/tiny/ternary/model")
    make("quantize", "runs/tiny/teacher", "runs/tiny/ternary")
    assert contents(inside / "runs/tiny/ternary/model") == before
    int8 = resolve("tiny", Params(), None, {"quantization": {"weights": "int8"}})
    with pytest.raises(ConfigError, match=r"quantization.weights is 'ternary' there, now 'int8'\."):
        quantize(load_text_task("tiny"), "runs/tiny/teacher", int8, None, Path("runs/tiny/ternary"))
    assert contents(inside / "runs/tiny/ternary/model") == before
    run(inside, "kdqat", "quantize", "--task", "tiny", "--weights", "int8", "--out", "runs/tiny/ternary", "--force")
    assert contents(inside / "runs/tiny/ternary/model") != before


def test_a_packed_result_of_other_settings_needs_force(inside: Path) -> None:
    student, out = "runs/tiny/ternary", Path("packed")
    before = contents(inside / "packed/model")
    export(student, out)
    assert contents(inside / "packed/model") == before
    with pytest.raises(ConfigError, match="half is False there, now True"):
        export(student, out, half=True)
    with pytest.raises(ConfigError, match="kind is 'packed' there, now 'export'"):
        export(student, out, format_name="dense", task=load_text_task("tiny"))
    assert contents(inside / "packed/model") == before
    export(student, out, half=True, force=True)
    with pytest.raises(ConfigError, match="half is True there, now False"):
        export(student, out)


def test_the_permissions_of_files_follow_the_umask(project: Path) -> None:
    for folder in ("packed", "runs/tiny/teacher", "runs/tiny/ternary"):
        modes = {path.stat().st_mode & 0o777 for path in (project / folder).rglob("*") if path.is_file()}
        assert modes == {(project / "tasks").stat().st_mode & 0o666}


@pytest.mark.parametrize(
    "out",
    [
        "packed/model/kdqat.safetensors",
        "packed/new.json",
        "tasks/train.tsv",
        "tasks/tiny.yaml",
        "runs/tiny/teacher/model/config.json",
        "notes.json",
        "folder",
        "/dev/null",
        "tasks/dev.tsv/new.json",
    ],
)
def test_metrics_do_not_replace_other_files(inside: Path, out: str) -> None:
    (inside / "notes.json").write_text('["score"]', encoding="utf-8")
    (inside / "folder").mkdir()
    before = contents(inside)
    with pytest.raises(KdqatError) as caught:
        evaluate(load_text_task("tiny"), "packed", None, Path(out))
    assert out in caught.value.sentence or "a file is where a folder should be" in caught.value.sentence
    assert contents(inside) == before


def test_metrics_replace_metrics_and_a_link_but_not_its_target(inside: Path) -> None:
    (inside / "object").write_text('{"score": 1.0}', encoding="utf-8")
    (inside / "metrics").mkdir()
    (inside / "metrics/m.json").symlink_to(inside / "object")
    score = evaluate(load_text_task("tiny"), "packed", None, Path("metrics/m.json"))["score"]
    assert json.loads((inside / "metrics/m.json").read_text(encoding="utf-8"))["score"] == score
    assert (inside / "object").read_text(encoding="utf-8") == '{"score": 1.0}'
    evaluate(load_text_task("tiny"), "packed", None, Path("metrics/m.json"))


@pytest.mark.parametrize("name", ["report.md", "report.csv", "report.json"])
def test_a_report_replaces_reports_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics/rte").mkdir(parents=True)
    (tmp_path / "metrics/rte/teacher.json").write_text('{"score": 60.0}', encoding="utf-8")
    groups: Any = report()
    write_report(groups, Path(name))
    first = (tmp_path / name).read_bytes()
    write_report(groups, Path(name))
    assert (tmp_path / name).read_bytes() == first
    (tmp_path / "object").write_bytes(first)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("object")  # DVC links a result to its cache in this way
    groups[0].measurements[0].metrics["score"] = 70.0
    write_report(groups, Path(name))
    assert (tmp_path / "object").read_bytes() == first
    assert (tmp_path / name).read_bytes() != first
    (tmp_path / name).write_text("# My project", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{name} would be replaced, but kdqat did not write it"):
        write_report(groups, Path(name))
    with pytest.raises(ConfigError, match="whose files are measurements"):
        write_report(groups, Path("metrics/new") / name)


def test_a_sweep_replaces_its_own_files_only(inside: Path) -> None:
    def plan(name: str, recipe: str | None = None) -> Any:
        return plan_sweep(name, ["distillation.beta=0.1,0.3"], "1", ["tiny"], recipe, Params())

    plan("beta")
    for name in ("dvc.yaml", "params.yaml", "best.yaml", "stopped.json"):
        folder = inside / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / name).write_text("mine: {}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=f"sweeps/{name}/{name} would be replaced, but kdqat did not write it"):
            plan(name)
    (inside / "sweeps/own").mkdir()
    text = Path(resolve.__code__.co_filename).with_name("recipes").joinpath("clean.yaml").read_text(encoding="utf-8")
    (inside / "sweeps/own/best.yaml").write_text(f"# Written by `kdqat sweep own`\n{text}", encoding="utf-8")
    plan("own")
    with pytest.raises(ConfigError, match="would replace its own recipe"):
        plan("own", "sweeps/own/best.yaml")
    (inside / "sweeps/teacher").symlink_to(inside / "runs/tiny/teacher")
    with pytest.raises(ConfigError, match="is inside it"):
        plan("teacher")
    for name in (".", ".."):
        with pytest.raises(ConfigError, match="cannot be the name of a folder"):
            plan(name)
