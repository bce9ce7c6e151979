"""The output folder: one owner at a time, results whole or absent, resume state of one configuration only."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.stages.folder import MODEL, output_folder, resume_folder, write_json

HOLD = """
import sys
from pathlib import Path
from kdqat_cli.stages.folder import output_folder
with output_folder(Path(sys.argv[1])) as scratch:
    (scratch / "half").write_text("unfinished")
    print("working", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "out"


@pytest.fixture
def other(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works in the folder until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.communicate()


def fill(out: Path, text: str) -> None:
    with output_folder(out) as scratch:
        (scratch / MODEL).mkdir()
        (scratch / MODEL / "weights").write_text(text)
        (scratch / "run.json").write_text(text)


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _write_and_raise(path: Path, error: type[BaseException]) -> None:
    path.write_text("new")
    raise error


def lock_of(out: Path, **changes: object) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    (out / ".lock").write_text(json.dumps(owner | changes))
    return out / ".lock"


def test_results_appear_when_the_block_ends(out: Path) -> None:
    with output_folder(out) as scratch:
        (scratch / MODEL).mkdir()
        (scratch / MODEL / "weights").write_text("new")
        assert not (out / MODEL).exists()
        assert (out / ".lock").exists()
    assert entries(out) == [MODEL, f"{MODEL}/weights"]


def test_new_results_replace_old_ones(out: Path) -> None:
    fill(out, "old")
    (out / MODEL / "leftover").touch()
    (out / "notes.txt").write_text("mine")
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/weights", "notes.txt", "run.json"]
    assert (out / MODEL / "weights").read_text() == "new"
    assert (out / "run.json").read_text() == "new"


def test_links_are_replaced_not_followed(out: Path, tmp_path: Path) -> None:
    """DVC may put links to its cache where results lie."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "weights").write_text("cached")
    out.mkdir(parents=True)
    (out / MODEL).symlink_to(cache)
    (out / "run.json").symlink_to(cache / "weights")
    fill(out, "new")
    assert not (out / MODEL).is_symlink()
    assert (out / MODEL / "weights").read_text() == "new"
    assert (cache / "weights").read_text() == "cached"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_published_when_the_block_raises(out: Path, error: type[BaseException]) -> None:
    fill(out, "old")
    with pytest.raises(error), output_folder(out) as scratch:
        _write_and_raise(scratch / "run.json", error)
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"], "neither lock nor scratch stay"
    assert (out / "run.json").read_text() == "old"


def test_what_a_killed_run_left_is_not_published(out: Path) -> None:
    (out / ".scratch").mkdir(parents=True)
    (out / ".scratch" / "half").touch()
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"]


def test_a_folder_in_use_is_refused_until_its_owner_ends(out: Path, other: subprocess.Popen[str]) -> None:
    in_use = rf"{out} is in use by process {other.pid} on {socket.gethostname()}"
    with pytest.raises(MissingInputError, match=in_use) as caught, output_folder(out):
        pass
    assert caught.value.fix is not None
    assert f"rm {out / '.lock'}" in caught.value.fix
    assert (out / ".scratch" / "half").read_text() == "unfinished", "the owner's work is left alone"
    other.communicate("end\n")
    assert other.returncode == 0
    assert entries(out) == ["half"]
    fill(out, "new")


def test_the_lock_of_a_killed_process_is_taken_over(out: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert (out / ".lock").exists()
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"]


def test_the_lock_of_a_process_that_ended_unnoticed_is_taken_over(out: Path, other: subprocess.Popen[str]) -> None:
    """Its parent has not asked how it ended, or the system's first process is slow to: it is still listed."""
    process = psutil.Process(other.pid)
    other.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    fill(out, "new")
    assert process.status() == psutil.STATUS_ZOMBIE
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"]


def test_a_process_that_was_given_the_number_of_a_dead_one_is_not_its_owner(out: Path) -> None:
    lock_of(out, started=psutil.Process().create_time() - 1000)
    fill(out, "new")
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({"host": "elsewhere", "pid": 1}, "process 1 on elsewhere"),
        ({"host": "elsewhere", "pid": 2**22 + 1}, f"process {2**22 + 1} on elsewhere"),
        ({}, f"process {os.getpid()} on {socket.gethostname()}"),
    ],
    ids=["elsewhere", "elsewhere, no such process here", "this process"],
)
def test_owners_that_may_live_are_respected(out: Path, changes: dict[str, object], owner: str) -> None:
    """Another host's processes cannot be seen; and a folder is not entered twice by one process either."""
    lock = lock_of(out, **changes)
    before = lock.read_text()
    with pytest.raises(MissingInputError, match=owner), output_folder(out):
        pass
    assert lock.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "null"])
def test_a_lock_that_cannot_be_read_is_respected_for_a_minute(out: Path, text: str) -> None:
    """It may be just being written, or have been when the power was cut."""
    lock = lock_of(out)
    lock.write_text(text)
    with pytest.raises(MissingInputError, match="in use by process unknown"), output_folder(out):
        pass
    os.utime(lock, (time.time() - 61, time.time() - 61))
    fill(out, "new")


@pytest.mark.parametrize("at", range(6))
def test_a_power_cut_leaves_no_old_result_beside_a_new_one(out: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after each renaming in turn: run.json, model and history leave, and model and run.json come."""
    fill(out, "old")
    (out / "history.csv").write_text("old")
    rename, renamed = Path.rename, 0

    def cut(path: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed > at:
            os._exit(9)
        return rename(path, target)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", cut)
        fill(out, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (9 if at < 5 else 0)
    visible = {path.name: path for path in out.iterdir() if not path.name.startswith(".")}
    texts = {(path / "weights" if path.is_dir() else path).read_text() for path in visible.values()}
    assert texts == ({"old"} if at < 3 else {"new"} if at > 3 else set())
    assert ("run.json" in visible) == (at in (0, 5)), "where it is, all of them are"
    fill(out, "newer")
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"]
    assert (out / "run.json").read_text() == (out / MODEL / "weights").read_text() == "newer"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(MissingInputError, match=f"The folder {out} cannot be written"), output_folder(out):
            pass


def test_resume_state_is_of_one_digest(out: Path) -> None:
    first = resume_folder(out, "a" * 64)
    (first / "checkpoint").touch()
    assert resume_folder(out, "a" * 64) == first
    assert (first / "checkpoint").exists()
    second = resume_folder(out, "b" * 64)
    assert second.is_dir()
    assert not first.exists()
    assert not any(second.iterdir())
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/weights", "run.json"], "forgotten when the results are there"


def test_resume_state_outlives_a_run_that_failed(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_folder(out):
        _write_and_raise(resume_folder(out, "c" * 64) / "checkpoint", KeyboardInterrupt)
    with output_folder(out):
        assert (resume_folder(out, "c" * 64) / "checkpoint").exists()


def test_json_is_readable_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    write_json(path, {"label": "schön", "score": 81.28})
    assert path.read_text(encoding="utf-8") == '{\n  "label": "schön",\n  "score": 81.28\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 81.28
    assert entries(path.parent) == ["run.json"]
