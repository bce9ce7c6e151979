"""The output folder of a stage: locked while in use, whole or absent.

A stage writes into a scratch folder beside its results. What it finished replaces the old results by renaming: first
all the old ones leave, run.json first, then the new ones come, run.json last, each whole and on disk before its name
is. So whenever the power is cut, there is no old result beside a new one, and where run.json is, all of them are.
Resume state of a training lives in the same folder, outside what DVC caches, under the digest of everything that
the training depends on: another configuration never resumes from it. It stays until the results are there.

    <out>/model/        the model                     (DVC caches it)
    <out>/history.csv   losses and scores by step     (DVC plots it)
    <out>/run.json      seconds, device, threads      (DVC caches it)
    <out>/.resume/      checkpoints of an unfinished training
    <out>/.lock         process id and host of who works here
"""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from kdqat_cli import group
from kdqat_cli.errors import KdqatError, MissingInputError

ABOUT = "kdqat.json"
MODEL = "model"
HISTORY = "history.csv"
RUN = "run.json"
_SCRATCH = ".scratch"
_OLD = ".old"
_RESUME = ".resume"
_LOCK = ".lock"
_WRITTEN_BY_THEN = 60.0  # seconds


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Locks `out` and hands out a scratch folder, whose entries become those of `out` when the block ends well.

    Raises:
        MissingInputError: another process works in the folder, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with enough_room(out):
            lock = _acquire(out / _LOCK)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise MissingInputError(f"The folder {out} cannot be written: {error.strerror}.") from error
    scratch, old = out / _SCRATCH, out / _OLD
    try:
        with enough_room(out):
            for folder in (scratch, old):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            yield scratch
            _publish(scratch, old, out)
        if (out / _RESUME).exists():
            (out / _RESUME).rename(old / _RESUME)  # at once: half removed, a checkpoint could still pass for whole
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        lock.unlink(missing_ok=True)


@contextmanager
def shared_folder(out: Path) -> Iterator[Path | None]:
    """`output_folder` for the process that leads its group; None for the others, which leave `out` to it.

    Raises:
        MissingInputError: as `output_folder`, or a process on another machine does not see the folder.
    """
    with output_folder(out) if group.leads() else nullcontext() as scratch:
        group.meet()
        if not (out / _LOCK).exists():
            raise MissingInputError(
                f"Process {group.rank()} of the group does not see the folder {out.resolve()} of the first one.",
                "--out with a folder that the machines share",
            )
        group.meet()
        yield scratch


def resume_folder(out: Path, digest: str) -> Path:
    """Where the training of `digest` keeps its checkpoints; those of other digests are removed."""
    folder = out / _RESUME / digest[:16]
    if not group.leads():
        return folder
    gone = out / _RESUME / _OLD
    shutil.rmtree(gone, ignore_errors=True)
    for other in (out / _RESUME).glob("*"):
        if other != folder:
            other.rename(gone)  # at once, as above
            shutil.rmtree(gone)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as people read it, through a file aside.

    Raises:
        MissingInputError: the disk is full.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with enough_room(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            _sync(aside)
            aside.replace(path)
            _sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Returns when a folder and all in it are on disk, so that a power cut does not take them."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _publish(scratch: Path, old: Path, out: Path) -> None:
    sync_tree(scratch)
    new = sorted((entry.name for entry in scratch.iterdir()), key=lambda name: name == RUN)
    # Those that the stage does not write this time, too: beside the new ones they would be stale.
    for name in dict.fromkeys([RUN, MODEL, HISTORY, *new]):
        if (out / name).exists() or (out / name).is_symlink():
            (out / name).rename(old / name)
            _sync(out)
    for name in new:
        (scratch / name).rename(out / name)
        _sync(out)


_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "your quota is used up", errno.EFBIG: "a file is too large"}


@contextmanager
def enough_room(folder: Path) -> Iterator[None]:
    """Turns what a full disk makes of a write into one sentence; Python, Rust and C++ have each an error of their own.

    Raises:
        MissingInputError: there is no room in `folder`.
    """
    try:
        yield
    except KdqatError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        found = re.search(r"os error (\d+)|\[enforce fail at inline_container|basic_ios::clear", str(error))
        if found:  # a C++ writer or its stream does not say why, and has no reason but this
            number = int(found[1]) if found[1] else errno.ENOSPC
        if number not in _FULL:
            raise
        raise MissingInputError(
            f"The folder {folder} cannot be written: {_FULL[number]}. What was there is as it was.",
            f"free space for {folder} (df -h {folder}), and then the same command, which continues",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acquire(lock: Path) -> Path:
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    with _alone_in(lock.parent):
        owner = _owner(lock)
        if owner is not None and _alive(owner):
            raise MissingInputError(
                f"{lock.parent} is in use by process {owner['pid']} on {owner['host']}.",
                f"wait for it, or rm {lock} if that process is gone",
            )
        lock.unlink(missing_ok=True)
        try:
            with lock.open("x", encoding="utf-8") as file:
                json.dump(mine, file)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError as error:  # another host was faster
            raise MissingInputError(f"{lock.parent} is in use by a process on another host.") from error
        except OSError:
            lock.unlink()
            raise
    return lock


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps this host's other processes from looking at the lock meanwhile: two may find it stale at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner(lock: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        return {"pid": int(owner["pid"]), "host": str(owner["host"]), "started": float(owner["started"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # It may be just being written; one that a power cut left so is older.
        young = time.time() - lock.stat().st_mtime < _WRITTEN_BY_THEN
        return {"pid": "unknown", "host": "unknown", "started": 0.0} if young else None


def _alive(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return True  # another machine's processes cannot be seen from here
    try:
        process = psutil.Process(owner["pid"])
        # A process id is used again; the start time tells the old process from a new one.
        same = abs(process.create_time() - owner["started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE  # which has ended, though nobody has asked how
    except psutil.NoSuchProcess:
        return False
