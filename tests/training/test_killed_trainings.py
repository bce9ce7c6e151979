"""`kdqat distill` killed at random moments until it ends: its results are those of an undisturbed run, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import environment, run

KILLS = 50
BYTES = ("model/model.safetensors", "model/kdqat.json", "model/config.json", "model/tokenizer.json", "history.csv")


def writes_checkpoint(out: Path) -> bool:
    return any(not (path / "complete").exists() for path in out.glob(".kdqat-resume/*/checkpoint-*"))


def writes_results(out: Path) -> bool:
    return any((out / ".kdqat-scratch").glob("*"))


def replaces_results(out: Path) -> bool:
    return not (out / "run.json").exists()


MOMENTS: dict[str, tuple[Callable[[Path], bool], float]] = {
    "at any time": (lambda out: True, 0.0),
    "in a checkpoint": (writes_checkpoint, 0.01),
    "in the results": (writes_results, 1.0),
    "between results": (replaces_results, 1.0),
}
"""When to kill → the probability in each millisecond of such a time; 0: at one moment of the whole run."""


def killed(process: "subprocess.Popen[str]", out: Path, moment: str, seconds: float, draw: random.Random) -> bool:
    """Kills a process at a moment; False: the process had ended before."""
    (condition, chance), end = MOMENTS[moment], time.monotonic() + seconds * draw.random()
    while process.poll() is None:
        if condition(out) and (draw.random() < chance if chance else time.monotonic() > end):
            time.sleep(draw.choice([0, 0.001, 0.01]))
            process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
            return process.wait() != 0
        time.sleep(0.001)
    assert process.returncode == 0, process.stderr and process.stderr.read()
    return False


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*BYTES, "run.json") if (out / name).exists()}


def measured(out: Path) -> dict[str, float]:
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("rows", "steps", "score")}


def write(out: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


@pytest.mark.slow
def test_a_training_that_is_killed_many_times_ends_like_an_undisturbed_one(
    tmp_path: Path, rated_task: Path, rated_teacher: Path
) -> None:
    shutil.copytree(rated_task, tmp_path / "tasks")
    command = ["kdqat", "distill", "--task", "rated", "--teacher", str(rated_teacher), "--epochs", "2", "--json"]
    command += ["--batch-size", "8", "--eval-every", "3", "--force"]  # over results of other settings
    start = time.monotonic()
    run(tmp_path, *command, "--out", "whole")
    seconds = time.monotonic() - start
    whole, out, old = contents(tmp_path / "whole"), tmp_path / "out", dict.fromkeys(BYTES, b"old")
    old |= {"run.json": b'{"seconds": 1, "device": "old"}', "history.csv": b"step,old"}
    assert whole.keys() == old.keys()
    draw, kills, ends = random.Random(0), Counter[str](), 0
    while sum(kills.values()) < KILLS or ends == 0 or out.exists():
        if not out.exists():
            write(out, old)
        process = subprocess.Popen(
            [*command, "--out", "out"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        moment = draw.choice(list(MOMENTS)) if sum(kills.values()) < KILLS else "at any time"
        patience = seconds if sum(kills.values()) < KILLS else 1000 * seconds
        if killed(process, out, moment, patience, draw):
            kills[moment] += 1
            found = contents(out)
            if not all(content == old[name] for name, content in found.items()):  # then all are new
                assert all(found[name] == whole[name] for name in found.keys() & set(BYTES)), found["history.csv"]
                assert "run.json" not in found or measured(out) == measured(tmp_path / "whole")
            continue
        ends += 1
        assert {name: contents(out)[name] for name in BYTES} == {name: whole[name] for name in BYTES}
        assert measured(out) == measured(tmp_path / "whole")
        assert sorted(os.listdir(out)) == ["history.csv", "model", "run.json"]
        shutil.rmtree(out)
    print(f"{dict(kills)} kills, {ends} ends, {seconds:.1f} s undisturbed")
    assert min(kills[moment] for moment in MOMENTS) > 0
