"""The command line through its entry point: help, exit codes, one-sentence errors, JSON, locks, resume."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from kdqat_cli.cli import app
from kdqat_cli.store.lock import locked
from kdqat_cli.store.progress import EventReader
from tests.commands import environment, run

TRAINING = ("--epochs", "6", "--batch-size", "8", "--learning-rate", "4e-3", "--seed", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny` and its teacher."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_task, folder / "tasks")
    run(folder, "kdqat", "finetune-teacher", "--task", "tiny", "--encoder", str(tiny_encoder), *TRAINING)
    return folder


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, kdqat_cli.cli; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert run(Path(), sys.executable, "-c", code).stdout.strip() == "[]"


def test_summaries_fit_eighty_columns(tmp_path: Path) -> None:
    lines = run(tmp_path, "kdqat", "--help", COLUMNS="80").stdout.splitlines()
    assert len(lines) > 20
    assert not [line for line in lines if line.endswith(("...", "…")) and not line.startswith("Usage:")]


_MISTAKES = {
    "distill --task rte --beta -1": (2, "--beta"),
    "distill --task rte --seed x": (2, "--seed"),
    "distill --task rte --loss foo": (2, "--loss: input should be 'score', 'map',"),
    "distill --task rte --teacher absent": (3, "There is no model folder absent."),
    "quantize --task absent.yaml": (3, "There is no file absent.yaml."),
    "quantize --task rte": (3, "There is no model folder runs/rte/teacher."),
    "finetune-teacher --task rte --encoder bert-base-uncased": (3, "A hub id has the form OWNER/NAME."),
    "evaluate absent --task ret": (2, "There is no task 'ret'"),
    "evaluate absent": (3, "There is no model folder absent."),
    "export": (2, "Nothing to export"),
    "export --student ./absent": (3, "There is no model folder"),
    "predict absent text": (3, "There is no model folder absent."),
    "predict absent text --threads 257": (2, "--threads"),
    "bench absent": (3, "There is no model folder absent."),
}
_TRIES = """
import json, sys
from typer.testing import CliRunner
from kdqat_cli.cli import app
told = [CliRunner().invoke(app, command.split()) for command in json.loads(sys.argv[1])]
heavy = [name for name in ("torch", "transformers", "datasets") if name in sys.modules]
print(json.dumps([heavy, [(done.exit_code, done.stderr) for done in told]]))
"""


def test_mistakes_are_reported_before_torch_is_imported(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, "-c", _TRIES, json.dumps(list(_MISTAKES)))
    heavy, told = json.loads(done.stdout)
    assert heavy == []
    for (command, (code, said)), (found, stderr) in zip(_MISTAKES.items(), told, strict=True):
        assert (found, said in stderr) == (code, True), f"{command}: {stderr}"
        assert "Value error" not in stderr


def test_every_command_and_option_has_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"fetch", "finetune-teacher", "quantize", "distill", "evaluate", "export", "ls", "validate"} <= set(commands)
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_the_error_about_an_unknown_task_names_the_likely_one(tmp_path: Path) -> None:
    done = run(tmp_path, "kdqat", "distill", "--task", "ret", code=2)
    assert "There is no task 'ret'; did you mean rte?" in done.stderr
    assert "kdqat ls tasks" in done.stderr
    assert done.stdout == ""


def test_wrong_options_are_reported_at_once(tmp_path: Path) -> None:
    done = run(tmp_path, "kdqat", "distill", "--task", "rte", "--epochs", "-1", "--batch-size", "0", code=2)
    assert "--epochs" in done.stderr
    assert "--batch-size" in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--beta", "0.3"), ("--mix", "SM2"), ("--temperature", "5")])
def test_an_option_that_the_loss_does_not_use_is_refused(tmp_path: Path, option: str, value: str) -> None:
    done = run(tmp_path, "kdqat", "distill", "--task", "rte", "--loss", "output", option, value, code=2)
    assert f"{option} has no meaning for --loss output." in done.stderr
    assert "--loss map+output" in done.stderr


def test_the_error_about_a_missing_teacher_names_the_command_that_makes_it(tmp_path: Path) -> None:
    done = run(tmp_path, "kdqat", "distill", "--task", "rte", code=3)
    assert "There is no model folder runs/rte/teacher." in done.stderr
    assert "kdqat finetune-teacher --task rte" in done.stderr
    assert not (tmp_path / "runs/rte/student/map+output-42/model").exists()


def test_a_hub_model_without_network_is_one_sentence(tmp_path: Path, tiny_task: Path) -> None:
    task = str(tiny_task / "tiny.yaml")
    done = run(tmp_path, "kdqat", "finetune-teacher", "--task", task, "--encoder", "google-bert/bert-base", code=3)
    assert "There is no folder google-bert/bert-base, and the config.json of the hub model of that name" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_reports_every_error_at_once(tmp_path: Path) -> None:
    params = "tasks: [rte, ret]\nlosses: [maps]\nseeds: [one]\nencodr: x\n"
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("teacher: {epochs: 0}\n", encoding="utf-8")
    done = run(tmp_path, "kdqat", "validate", "--recipe", "mine.yaml", code=2)
    for fault in ("losses.0", "seeds.0", "encodr is not a known key; did you mean encoder?", "teacher.epochs"):
        assert fault in done.stderr


def test_a_training_writes_its_evaluations_as_events(work: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    options = ("--task", "tiny", "--encoder", str(tiny_encoder), *TRAINING, "--out", str(tmp_path / "teacher"))
    done = run(work, "kdqat", "finetune-teacher", *options, "--json", "--quiet", KDQAT_PROGRESS=str(events))
    told = EventReader(events).new()
    scores = [event.score for event in told if event.score is not None]
    assert len(scores) == 6
    assert max(scores) == json.loads(done.stdout)["score"]
    assert told[-1].step == told[-1].steps
    assert not [path for path in (tmp_path / "teacher").rglob("*") if path.suffix == ".jsonl"]


def test_results_are_json_on_stdout_and_progress_is_on_stderr(work: Path) -> None:
    done = run(work, "kdqat", "evaluate", "runs/tiny/teacher", "--json")
    metrics = json.loads(done.stdout)
    assert metrics["score"] == metrics["accuracy"] > 80
    done = run(work, "kdqat", "distill", "--task", "tiny", "--max-steps", "3", "--json", "--out", "three")
    assert json.loads(done.stdout)["teacher_score"] == metrics["score"]
    assert "student tiny map+output 42: step 3 of 3" in done.stderr


def test_a_score_below_the_minimum_gives_exit_code_4(work: Path) -> None:
    done = run(work, "kdqat", "evaluate", "runs/tiny/teacher", "--min-score", "101", "--out", "m.json", code=4)
    assert "below the bar of 101.00" in done.stderr
    assert json.loads((work / "m.json").read_text(encoding="utf-8"))["rows"] == 60


def test_a_teacher_at_chance_is_refused(work: Path, tiny_encoder: Path) -> None:
    untrained = ("--max-steps", "1", "--learning-rate", "1e-9", "--out", "untrained")
    run(work, "kdqat", "finetune-teacher", "--task", "tiny", "--encoder", str(tiny_encoder), *untrained)
    for command in ("quantize", "distill"):
        done = run(work, "kdqat", command, "--task", "tiny", "--teacher", "untrained", "--out", "weak", code=4)
        assert "The teacher untrained scores " in done.stderr
        assert "no better than a constant answer" in done.stderr
    assert not (work / "weak").exists()


def test_only_a_ternary_model_is_packed(work: Path) -> None:
    done = run(work, "kdqat", "export", "--student", "runs/tiny/teacher", code=2)
    assert "runs/tiny/teacher holds a teacher; only a student can be exported." in done.stderr
    assert "kdqat distill --task TASK --teacher runs/tiny/teacher" in done.stderr
    assert not (work / "runs/tiny/teacher-packed/model").exists()
    run(work, "kdqat", "quantize", "--task", "tiny", "--out", "ternary")
    run(work, "kdqat", "export", "--student", "ternary", "--out", "packed")
    done = run(work, "kdqat", "export", "--student", "packed", code=2)
    assert "packed is already packed; other engines' formats can be written from it." in done.stderr


def test_a_folder_in_use_is_refused(work: Path) -> None:
    (work / "busy").mkdir()
    with locked(work / "busy"):
        done = run(work, "kdqat", "quantize", "--task", "tiny", "--out", "busy", code=3)
    assert f"busy is in use by process {os.getpid()} on {socket.gethostname()}" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_continues_to_the_same_bits(work: Path, stop: signal.Signals) -> None:
    command = ("kdqat", "distill", "--task", "tiny", *TRAINING, "--out")
    run(work, *command, "whole")
    out = f"stopped-{stop.name}"
    log = work / f"{out}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command, out],
            cwd=work,
            env=environment(),
            stderr=file,
            stdout=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
        )
        deadline = time.monotonic() + 120
        while "dev score" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, stop)
        code = process.wait(timeout=60)
    assert code == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not (work / out / "model").exists()

    run(work, *command, out)
    for name in ("model/model.safetensors", "history.csv"):
        assert (work / out / name).read_bytes() == (work / "whole" / name).read_bytes()
    assert sorted(path.name for path in (work / out).iterdir()) == ["history.csv", "model", "run.json"]
