"""`kdqat repro` interrupted, killed and started twice: nothing is lost, and no stage runs twice at the same time."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.commands import environment, run
from tests.parallel.projects import assert_clean, repro, start, states, wait_for


def pids(folder: Path) -> list[int]:
    return [int(line) for name in "ab" for line in (folder / f"{name}.pids").read_text().split()]


def jobs_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "runner.py" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster on this machine."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    process = subprocess.Popen(["ray", "start", "--head", "--block", *options], env=environment())
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(60)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest) -> list[str]:
    """The options that choose the executor."""
    return ["--ray", request.getfixturevalue("cluster")] if request.param == "ray" else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_after_an_interruption_the_same_command_continues_but_not_beside_the_old_one(
    counting: Path, number: signal.Signals, where: list[str]
) -> None:
    process = start(counting, "repro", "--jobs", "2", *where)
    for name in "ab":
        wait_for(counting / f"{name}.at")
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), said
    if where:  # Ray's tasks do not hold the lock that a second coordinator waits for
        psutil.wait_procs([psutil.Process(pid) for pid in pids(counting) if psutil.pid_exists(pid)], timeout=30)
    (counting / "go").touch()
    rows = repro(counting, "--jobs", "2", *where)
    assert states(rows) == dict.fromkeys(["count@a", "count@b", "sum"], "done")
    assert len(pids(counting)) == 4
    assert not (counting / "two at once").exists()
    for name in "ab":
        log = (counting / f".kdqat/logs/count@{name}.log").read_text(encoding="utf-8")
        assert f"{name}: step 1 of 8" not in log  # it continued where it was stopped
    assert_clean(counting)


def test_a_command_that_survives_its_coordinator_is_not_started_twice(counting: Path) -> None:
    process = start(counting, "repro", "--jobs", "2")
    for name in "ab":
        wait_for(counting / f"{name}.at")
    jobs = jobs_of(process)
    process.kill()
    for job in jobs:
        job.kill()
    process.communicate()
    rows = repro(counting, "--jobs", "2", code=5)
    assert states(rows) == {"count@a": "failed", "count@b": "failed", "sum": "skipped"}
    log = (counting / ".kdqat/logs/count@a.log").read_text(encoding="utf-8")
    assert f"a is in use by process {pids(counting)[0]}" in log
    (counting / "go").touch()
    for pid in pids(counting):
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert set(states(repro(counting, "--jobs", "2")).values()) == {"done"}
    assert not (counting / "two at once").exists()
    assert_clean(counting)


def test_a_second_coordinator_waits_for_the_first_and_dvc_works_beside_it(counting: Path) -> None:
    one = start(counting, "repro", "--jobs", "2")
    for name in "ab":
        wait_for(counting / f"{name}.at")
    other = start(counting, "repro", "--jobs", "2")
    run(counting, "dvc", "stage", "list")
    assert "is busy" in run(counting, "dvc", "repro", code=255).stderr
    (counting / "go").touch()
    for process in (one, other):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert "3 of 3 stages unchanged" in said
    assert len(pids(counting)) == 2
    assert_clean(counting)
