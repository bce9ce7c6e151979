"""The lock of a folder: one holder at a time, as long as the holder runs, regardless of clocks and process ids."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.store.lock import LOCK, locked

HOLD = """
import os, sys, time
from pathlib import Path
from kdqat_cli.store.lock import locked
with locked(Path(sys.argv[1])):
    forked = sys.argv[2:] and os.fork() == 0
    if forked or not sys.argv[2:]:  # the forked process reports it, because until it runs, it holds the inherited lock
        print("working", flush=True)
    if forked:
        time.sleep(30)
        os._exit(0)
    sys.stdin.readline()
"""


def hold(folder: Path, *more: str) -> "subprocess.Popen[str]":
    """Another process that holds the lock until it must end; with `more`, it has forked a process that continues."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = hold(tmp_path)
    yield process
    process.kill()
    process.communicate()


def take(folder: Path) -> None:
    with locked(folder):
        assert (folder / LOCK).exists()
    assert not (folder / LOCK).exists()


def claim(folder: Path, **changes: object) -> None:
    """A lock file without a holder."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    (folder / LOCK).write_text(json.dumps(owner | changes))


def test_it_is_held_until_its_owner_ends(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    in_use = rf"{tmp_path} is in use by process {other.pid} on {socket.gethostname()}, which locked it 0:00:0\d ago"
    for _ in range(2):
        with pytest.raises(MissingInputError, match=in_use), locked(tmp_path):
            pass
    other.communicate("end\n")
    assert other.returncode == 0
    take(tmp_path)


@pytest.mark.parametrize("started", [0, time.time() + 1000], ids=["long ago", "to come"])
def test_the_content_of_a_held_lock_file_does_not_matter(
    tmp_path: Path, other: "subprocess.Popen[str]", started: float
) -> None:
    """The clock may have been changed, or the owner may have another process id because it is in a container."""
    claim(tmp_path, pid=2**22 + 1, started=started)
    with pytest.raises(MissingInputError, match="is in use"), locked(tmp_path):
        pass
    assert other.poll() is None


def test_a_process_cannot_take_it_twice(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(MissingInputError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    take(tmp_path)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).exists()
    take(tmp_path)


def test_the_lock_of_a_zombie_process_is_taken_over(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    """Neither its parent nor the first process of the system has collected its status, so it is still listed."""
    process = psutil.Process(other.pid)
    other.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    take(tmp_path)
    assert process.status() == psutil.STATUS_ZOMBIE


def test_a_forked_process_does_not_keep_it(tmp_path: Path) -> None:
    process = hold(tmp_path, "fork")
    try:
        process.kill()
        process.wait()
        take(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _do_nothing() -> None:
    return


def test_a_forked_process_that_ends_does_not_release_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=_do_nothing)
        child.start()
        child.join()
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert "is in use by process" in done.stderr
    take(tmp_path)


@pytest.mark.parametrize("pid", [1, 2**22 + 1])
def test_the_lock_of_another_machine_is_respected_and_reported(tmp_path: Path, pid: int) -> None:
    """Its processes cannot be seen from here, and its locks not always."""
    claim(tmp_path, host="elsewhere", pid=pid)
    os.utime(tmp_path / LOCK, (time.time() - 90000, time.time() - 90000))
    before = (tmp_path / LOCK).read_text()
    sentence = rf"in use by process {pid} on elsewhere, which locked it 1 day, 1:00:0\d ago"
    with pytest.raises(MissingInputError, match=sentence) as caught, locked(tmp_path):
        pass
    assert caught.value.fix == f"wait for it; if kdqat no longer runs on elsewhere: rm {tmp_path / LOCK}"
    assert (tmp_path / LOCK).read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "null", "\0\0"])
def test_a_lock_that_a_power_cut_left_incomplete_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    take(tmp_path)


def test_many_processes_never_hold_it_at_once(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from kdqat_cli.errors import MissingInputError
from kdqat_cli.store.lock import locked
folder, got = Path(sys.argv[1]), 0
end = time.monotonic() + 60
while got < 20 and time.monotonic() < end:
    try:
        with locked(folder):
            mine = os.open(folder / "alone", os.O_CREAT | os.O_EXCL)
            os.close(mine)
            os.unlink(folder / "alone")
            got += 1
    except MissingInputError:
        time.sleep(0.001)
assert got == 20
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert not any(tmp_path.iterdir())
