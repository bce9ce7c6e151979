"""The output folder of a stage: locked while in use, whole or absent.

A stage writes into a scratch folder beside its results; what it finished replaces the old results by renaming.
Resume state of a training lives in the same folder, outside what DVC caches, under the digest of everything that
the training depends on: another configuration never resumes from it.

    <out>/model/        the model                     (DVC caches it)
    <out>/history.csv   one row an evaluation         (DVC plots it)
    <out>/run.json      seconds, versions, threads    (DVC caches it)
    <out>/.resume/      checkpoints of an unfinished training
    <out>/.lock         process id and host of who works here
"""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from kdqat_cli import group
from kdqat_cli.errors import MissingInputError

MODEL = "model"
HISTORY = "history.csv"
RUN = "run.json"
_SCRATCH = ".scratch"
_RESUME = ".resume"
_LOCK = ".lock"


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Locks `out` and hands out a scratch folder, whose entries become those of `out` when the block ends well.

    Raises:
        MissingInputError: another process works in the folder, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = _acquire(out / _LOCK)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise MissingInputError(f"The folder {out} cannot be written: {error.strerror}.") from error
    try:
        scratch = out / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        for entry in sorted(scratch.iterdir()):
            _publish(entry, out / entry.name)
    finally:
        shutil.rmtree(out / _SCRATCH, ignore_errors=True)
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
    for other in (out / _RESUME).glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def forget_resume(out: Path) -> None:
    """Removes the resume state of a finished training."""
    if group.leads():
        shutil.rmtree(out / _RESUME, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as people read it, through a file aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(aside)
    aside.replace(path)


def _publish(entry: Path, target: Path) -> None:
    for path in [entry, *entry.rglob("*")]:
        _sync(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif target.exists() or target.is_symlink():
        target.unlink()
    entry.rename(target)
    _sync(target.parent)


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
        except FileExistsError as error:  # another host was faster
            raise MissingInputError(f"{lock.parent} is in use by a process on another host.") from error
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
        return {"pid": "unknown", "host": "unknown", "started": 0.0}  # unreadable, so nobody's to take


def _alive(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return True  # another machine's processes cannot be seen from here
    try:
        # A process id is used again; the start time tells the old process from a new one.
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1)
    except psutil.NoSuchProcess:
        return False
