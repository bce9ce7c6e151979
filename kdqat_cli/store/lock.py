"""The lock of a folder, which a process holds until it ends.

The system keeps the lock (flock) and releases it when the process ends in any way. So it does not depend on the clock
or on process ids, which differ between containers. The file also says which process holds the lock, for users and for
machines that share the folder but not the locks of the system. On those, only the file counts.
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
from typing import NamedTuple

import psutil

from kdqat_cli.errors import MissingInputError

LOCK = ".kdqat-lock"

_held: set[int] = set()  # file descriptors


class _Owner(NamedTuple):
    pid: int
    host: str


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of an existing folder.

    Raises:
        MissingInputError: another process holds the lock, or a process of another machine has left it there.
        OSError: the lock cannot be written.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # false in a forked process
            _held.remove(descriptor)
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _let_go() -> None:
    """Closes inherited locks in a forked process, which would otherwise hold them longer than its parent."""
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
        os.close(descriptor)  # the previous owner has just removed the file


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
    """Writes this process into the lock. An owner of this machine is stale, because the system's lock was free."""
    owner = _owner(descriptor)
    if owner is not None and owner.host != socket.gethostname():
        raise _in_use(descriptor, path)
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode(), 0)
        os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def _owner(descriptor: int) -> _Owner | None:
    """The process in the lock file; None if the file is incomplete or not written yet."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return _Owner(int(owner["pid"]), str(owner["host"]))
    except (ValueError, KeyError, TypeError):
        return None


def _in_use(descriptor: int, path: Path) -> MissingInputError:
    owner = _owner(descriptor)
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    fix = "wait for it, or end it"
    if owner and owner.host != socket.gethostname():
        fix = f"wait for it; if kdqat no longer runs on {owner.host}: rm {path}"
    age = timedelta(seconds=max(0, int(time.time() - os.fstat(descriptor).st_mtime)))
    return MissingInputError(f"{path.parent} is in use by {who}, which locked it {age} ago.", fix)
