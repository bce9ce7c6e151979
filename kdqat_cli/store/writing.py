"""Writes files completely or not at all, and explains errors of the system to users.

A file is written under another name, synced and renamed. So a kill or a full disk never leaves a part of it. Nothing is
written through a link: if DVC has linked a result to an object of its cache, the new file replaces the link, and the
object does not change.
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "your quota is used up", errno.EFBIG: "a file is too large"}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "a name is too long",
    errno.ELOOP: "the links lead in a circle",
    errno.ENOLCK: "the file system has no locks",
}
_LARGEST_KNOWN = 2**20  # characters of a file that are read to see whether kdqat wrote it

Ours = Callable[[str], bool]
"""A function from the text of a file to whether kdqat wrote it."""


@contextmanager
def file_errors(folder: Path | None = None) -> Iterator[None]:
    """Turns a full disk, a read-only file system or missing rights into one sentence.

    Args:
        folder: named in the message if the error names no path; None: the working folder.

    Raises:
        MissingInputError: the system refused to read or write. It covers the errors of Python, Rust and C++ libraries.
    """
    try:
        yield
    except KdqatError:
        raise
    except Exception as error:
        refusal = _refusal(error, folder or Path())
        if refusal is None:
            raise
        raise refusal from error


def _refusal(error: Exception, folder: Path) -> MissingInputError | None:
    number = getattr(error, "errno", None)
    found = re.search(r"os error (\d+)|\[enforce fail at inline_container|basic_ios::clear", str(error))
    if found:  # a C++ writer does not name the reason; it is a full disk
        number = int(found[1]) if found[1] else errno.ENOSPC
    if number in _FULL:
        return MissingInputError(
            f"The folder {folder} cannot be written: {_FULL[number]}. Existing files have not changed.",
            f"free space for {folder} (df -h {folder}), and then the same command, which continues",
        )
    path = getattr(error, "filename", None)
    unnamed = isinstance(error, PermissionError) and path is None  # for example of a signal or a socket
    if number in _REFUSED and not unnamed:
        place = Path(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else folder
        there = next((step for step in (place, *place.parents) if os.path.lexists(step)), Path())
        return MissingInputError(
            f"{place} cannot be read or written: {_REFUSED[number]}.",
            f"ls -ld {there}, which shows its type and its owner; or another path",
        )
    if number == errno.ENOENT and path is None and "temporary directory" in str(error):
        return MissingInputError("There is no folder for temporary files.", "export TMPDIR=FOLDER")
    return None


def refuse_target(path: Path, ours: Ours | None = None) -> None:
    """Refuses, before any work, a path that cannot be written or has a file that kdqat did not write.

    Args:
        path: the path of the new file. A link to a file is accepted and will be replaced.
        ours: whether an existing file may be replaced; None: any file may. An empty file always may.

    Raises:
        ConfigError: kdqat did not write the existing file.
        MissingInputError: a folder, device, pipe or socket is there, or the folder cannot be written.
    """
    with file_errors(path.parent):
        # The mode of the target of a link: a link to a device is refused, a broken link is not.
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise MissingInputError(f"{path} is {what}: no file can be written there.", "--out with the path of a file")
        if mode is not None and ours is not None and not _known(path, ours):
            raise ConfigError(
                f"{path} would be replaced, but kdqat did not write it.", f"--out with another path, or rm {path}"
            )
        _refuse_unwritable(path.absolute().parent)


@contextmanager
def writing(path: Path, ours: Ours | None = None) -> Iterator[BinaryIO]:
    """Gives a file under another name, and renames it at the end. Creates missing folders; replaces a link at `path`.

    After an error in the block, `path` is unchanged.

    Raises:
        ConfigError: see `refuse_target`.
        MissingInputError: see `refuse_target`; or the disk is full.
    """
    refuse_target(path, ours)
    with file_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".kdqat-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, ours: Ours | None = None) -> None:
    """Writes a whole file; for arguments and errors see `writing`."""
    with writing(path, ours) as file:
        file.write(content)


def write_text(path: Path, text: str, ours: Ours | None = None) -> None:
    """Like `write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"), ours)


def write_json(path: Path, value: object, ours: Ours | None = None) -> None:
    """Like `write_bytes`, for indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", ours)


def read_object(path: Path) -> dict[str, object] | None:
    """The JSON object in a file; None if the file does not have one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until a folder and everything in it are on disk, so that a power cut cannot lose them."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _known(path: Path, ours: Ours) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_LARGEST_KNOWN)
    return not text or ours(text)


def _refuse_unwritable(folder: Path) -> None:
    """Raises the error of the system for the nearest existing folder if it cannot be written."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(there))
