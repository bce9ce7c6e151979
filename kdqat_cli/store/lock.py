"""The lock of a folder, which its process holds as long as it lives.

The system keeps it (flock), and lets go of it when the process ends, however it ends. So it depends neither on the
clock nor on process ids, which mean little in another container. The file also says who holds it: for people, and for
a machine that shares the folder but not the system's locks. There the file alone counts.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from kdqat_cli.errors import MissingInputError

LOCK = ".kdqat-lock"

_held: set[int] = set()  # descriptors


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of an existing folder.

    Raises:
        MissingInputError: another process holds it, or one of another machine has left it there.
        OSError: the lock cannot be written.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked process
            _held.remove(descriptor)
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _let_go() -> None:
    """Closes what a forked process has inherited: it would hold the lock after the end of the one that took it."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if not _lock(descriptor):
                raise _in_use(descriptor, path)
            if _is_at(descriptor, path):
                _take(descriptor, path)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has just removed it


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _take(descriptor: int, path: Path) -> None:
    """Writes this process into the lock. What one of this machine left there is stale: the system's lock was free."""
    owner = _owner(descriptor)
    if owner.get("host", socket.gethostname()) != socket.gethostname():
        raise _in_use(descriptor, path)
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode(), 0)
        os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def _owner(descriptor: int) -> dict[str, Any]:
    """What the lock says; nothing where it was cut short, or is not written yet."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return {"pid": int(owner["pid"]), "host": str(owner["host"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _in_use(descriptor: int, path: Path) -> MissingInputError:
    owner = _owner(descriptor)
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    fix = "wait for it, or end it"
    if owner and owner["host"] != socket.gethostname():
        fix = f"wait for it; if kdqat no longer runs on {owner['host']}: rm {path}"
    age = timedelta(seconds=max(0, int(time.time() - os.fstat(descriptor).st_mtime)))
    return MissingInputError(f"{path.parent} is in use by {who}, which locked it {age} ago.", fix)
