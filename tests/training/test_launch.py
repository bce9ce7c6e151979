"""Trainings on several devices: two processes train like one, fail like one, and leave nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from kdqat_cli.cli import app
from kdqat_cli.config import Params
from kdqat_cli.params import resolve
from kdqat_cli.stages.finetune_teacher import finetune_teacher
from kdqat_cli.tasks.registry import load_task
from tests.commands import REPOSITORY, environment, run
from tests.recipes import training
from tests.training.trainings import NAMES, trained

pytestmark = pytest.mark.pipeline

TEACH = ("finetune-teacher", "--task", "rated", "--encoder", "encoder", "--seed", "1")
DISTILL = ("distill", "--task", "rated")
SETTINGS = training(epochs=2, batch_size=8, learning_rate=4e-3)
OPTIONS = ("--epochs", "6", "--batch-size", "8", "--learning-rate", "4e-3")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, rated_task: Path) -> dict[str, Any]:
    """The results of the trainings in two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(
        folder,
        *(sys.executable, "-m", "tests.training.trainings", str(tiny_encoder), str(rated_task), str(folder)),
        PYTHONPATH=str(REPOSITORY),
    )
    results: dict[str, Any] = json.loads((folder / "two.json").read_text(encoding="utf-8"))
    return results


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, rated_task: Path) -> Path:
    """A folder with the task `rated` and the tiny encoder."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(rated_task, folder / "tasks")
    shutil.copytree(tiny_encoder, folder / "encoder")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_like_one(
    two: dict[str, Any], tiny_encoder: Path, rated_task: Path, tmp_path: Path, name: str
) -> None:
    """Losses are logged in single precision; the weights are not, and differ by 1e-12 after these steps."""
    one, both = trained(name, tiny_encoder, rated_task, tmp_path), two[name]
    assert len(one["history"]) == len(both["history"]) == 12
    assert sum("score" in row for row in both["history"]) == 2
    for mine, theirs in zip(one["history"], both["history"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)
    assert both["score"] == pytest.approx(one["score"], rel=1e-6)
    assert both["weights"].keys() == one["weights"].keys()
    for key, values in one["weights"].items():
        np.testing.assert_allclose(both["weights"][key], values, rtol=0, atol=1e-9, err_msg=key)
    assert len(set(both["draws"])) == 2, "each process has its own dropout"


def test_the_command_gives_the_same_as_one_process(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision the last bits grow with the steps, even without rounding to levels: to 1e-5 in fifty steps.

    Spearman depends on ranks: two neighbours that change places change it by at most 1200 / (n·(n + 1)) points.
    """
    monkeypatch.chdir(work)
    shutil.copytree("encoder", "plain")
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    AutoConfig.from_pretrained("encoder", **dropouts).save_pretrained("plain")
    task, settings = load_task("rated"), resolve("rated", Params()).model_copy(update={"teacher": SETTINGS})
    one = finetune_teacher(task, "plain", settings, 1, None, tmp_path / "one", lambda *_: None)
    more = (
        "--encoder",
        "plain",
        "--out",
        str(tmp_path / "two"),
        "--devices",
        "2",
        "--json",
        "--quiet",
        "--epochs",
        "2",
    )
    done = run(work, "kdqat", *TEACH, *OPTIONS, *more, OMP_NUM_THREADS="2")
    assert done.stderr == ""
    places = 1200 / (60 * 61)
    assert json.loads(done.stdout)["score"] == pytest.approx(one["score"], abs=places / 2)
    rows = [np.genfromtxt(tmp_path / name / "history.csv", delimiter=",", names=True) for name in ("one", "two")]
    for column in rows[0].dtype.names or ():
        moved = {"spearman": places, "score": places / 2}.get(column, 0)
        np.testing.assert_allclose(rows[1][column], rows[0][column], rtol=1e-4, atol=moved, err_msg=column)
    about = json.loads((tmp_path / "two/run.json").read_text(encoding="utf-8"))
    assert (about["devices"], about["threads"], about["rows"], about["steps"]) == (2, 1, 200, 50)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["history.csv", "model", "run.json"]
    records = [(tmp_path / name / "model/kdqat.json").read_bytes() for name in ("one", "two")]
    assert records[0] == records[1]


def started(work: Path, out: str) -> tuple["subprocess.Popen[bytes]", list[psutil.Process]]:
    """A command that trains in two processes and has a checkpoint, and the two processes, the leading one first."""
    log = work / f"{out}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["kdqat", *TEACH, *OPTIONS, "--devices", "2", "--out", out],
            cwd=work,
            env=environment(),
            stdout=file,
            stderr=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
        )
    wait_until(lambda: any((work / out).glob(".kdqat-resume/*/checkpoint-*/complete")) or process.poll() is not None)
    assert process.poll() is None, log.read_text(encoding="utf-8")
    members = sorted(psutil.Process(process.pid).children(), key=lambda member: member.create_time())
    assert len(members) == 2
    return process, members


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (1, [".kdqat-resume"]),
        pytest.param(0, [f".kdqat-{name}" for name in ("lock", "old", "resume", "scratch")], marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_ends_all_processes(work: Path, place: int, left: list[str]) -> None:
    out = f"killed-{place}"
    process, members = started(work, out)
    members[place].kill()
    assert process.wait(60) == 128 + signal.SIGKILL
    assert not psutil.wait_procs(members, timeout=0)[1]
    said = (work / f"{out}.log").read_text(encoding="utf-8")
    assert said.count("error:") == 1
    assert f"Process {place + 1} of 2 was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in (work / out).iterdir()) == left


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    """The folder of a teacher that was trained in two processes with dropout, without an interruption."""
    run(work, "kdqat", *TEACH, *OPTIONS, "--devices", "2", "--out", "whole")
    return work / "whole"


@pytest.mark.parametrize("stop", [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 15))])
def test_a_stopped_training_leaves_nothing_and_continues_to_the_same_bits(
    work: Path, whole: Path, stop: signal.Signals
) -> None:
    out = f"stopped-{int(stop)}"
    process, members = started(work, out)
    process.send_signal(stop)
    assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(stop, -stop)
    assert not psutil.wait_procs(members, timeout=30)[1], "orphans"
    said = (work / f"{out}.log").read_text(encoding="utf-8")
    assert said.count("interrupted; the same command continues") == (stop != signal.SIGKILL)
    assert "Traceback" not in said
    assert "error:" not in said
    said = run(work, "kdqat", *TEACH, *OPTIONS, "--devices", "2", "--out", out).stderr
    assert "continues from here" in said
    for name in ("model/model.safetensors", "history.csv"):
        assert (work / out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_torchrun_starts_the_same_training(work: Path, whole: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(work, *launcher, "-m", "kdqat_cli", *TEACH, *OPTIONS, "--out", "torchrun")
    assert (work / "torchrun/history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    said = run(work, *launcher, "-m", "kdqat_cli", *TEACH, *OPTIONS, "--devices", "4", "--out", "wrong", code=1).stderr
    assert said.count("--devices 4 does not match the 2 processes that were started") == 1
    said = run(
        work, *launcher, "-m", "kdqat_cli", *TEACH, *OPTIONS, "--encoder", "nix", "--out", "wrong", code=1
    ).stderr
    assert said.count("There is no model folder nix.") == 1


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (TEACH, ("--batch-size", "8", "--devices", "3"), "A batch of 8 rows has no equal shares for 3 devices."),
        (TEACH, ("--batch-size", "8", "--devices", "0"), "greater than or equal to 1"),
        (TEACH, ("--batch-size", "8", "--devices", "4"), "--devices 4 is more than the 3 visible GPUs."),
        (
            ("distill", "--task", "rated"),
            ("--recipe", "paper", "--devices", "2"),
            "--set quantization.activation_scale",
        ),
        (("distill", "--task", "rated"), ("--set", "distillation.padding=counted", "--devices", "2"), "same length"),
    ],
)
def test_a_training_that_cannot_be_shared_is_refused(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(work)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 0 1 2; do echo GPU $i: H; done\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = CliRunner().invoke(app, [*command, *options, "--out", "refused"])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (work / "refused").exists()
