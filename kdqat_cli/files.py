"""Reads files that a user names: only regular files, and never more bytes than the reader expects.

A named pipe would block forever, a device may have no end, and a folder, a missing permission or a compressed file is a
common mistake. Each gets one sentence at once. A link to a regular file is read like the file.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from kdqat_cli.errors import MissingInputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# First bytes → encoding; the longest first, because the mark of UTF-32 begins with the mark of UTF-16.
_ENCODINGS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# First bytes → the kind of file, and the command that gives its text.
_FORMATS = {
    b"\x1f\x8b": ("a gzip file", "gunzip -c {} > NEW"),
    b"\xfd7zXZ": ("an xz file", "xz -dc {} > NEW"),
    b"BZh": ("a bzip2 file", "bunzip2 -c {} > NEW"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "zstd -dc {} > NEW"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "unzip it, or save it as CSV in UTF-8"),
    b"PAR1": ("a Parquet file", "save it as JSON Lines (.jsonl)"),
}
_START = 5  # number of bytes that show the kind of a file
POINTER = "version https://git-lfs.github.com/spec/"
"""The beginning of a pointer of Git LFS, which replaces a file that was not downloaded."""


def is_there(path: Path) -> bool:
    """Whether a file, a folder or a link (even a broken one) has this name.

    Raises:
        MissingInputError: a folder of the path may not be searched.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, where links are not followed."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
        if os.path.lexists(os.path.join(folder, name))
    )


def names_in(folder: Path) -> list[str]:
    """The sorted names in a folder; empty if there is no such folder.

    Raises:
        MissingInputError: the folder may not be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def refuse_odd_files(folder: Path) -> None:
    """Refuses a folder with a named pipe, a socket or a device.

    Libraries that read a whole folder ignore such a file and use their defaults instead.

    Raises:
        MissingInputError: there is such a file, or the folder may not be read.
    """
    for path in (folder / name for name in names_in(folder)):
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
        except OSError:  # for example a broken link
            continue
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise MissingInputError(
                f"{path} is {_KINDS.get(kind, 'something else')}, not a regular file.", "a regular file in its place"
            )


def refuse_unreadable(folder: Path) -> None:
    """Refuses a folder with a file that may not be read, or with a pointer of Git LFS.

    Libraries report such a file as missing or damaged.

    Raises:
        MissingInputError: there is such a file.
    """
    for path in (folder / name for name in names_in(folder)):
        if path.is_file():
            open_file(path).close()


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file, or a link to one, to read bytes.

    Raises:
        MissingInputError: there is no such file, it is not a regular file, it may not be read, or it is a pointer of
            Git LFS.
    """
    try:
        mode = path.stat().st_mode  # checked first, because opening a device may have an effect
        if not stat.S_ISREG(mode):
            raise MissingInputError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file of text.")
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise MissingInputError(f"There is no file {path}.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        pointer = file.peek(len(POINTER)).startswith(POINTER.encode())
    except OSError as error:
        raise _unreadable(path, error) from error
    if pointer:
        raise MissingInputError(f"{path} is a pointer of Git LFS, not the file itself.", "git lfs pull")
    return file


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a small file.

    Args:
        path: the file.
        most: largest number of bytes.

    Raises:
        MissingInputError: see `open_file`; or the file has more bytes.
    """
    with open_file(path) as file:
        try:
            data = b"" if os.fstat(file.fileno()).st_size > most else file.read(most + 1)
            size = max(os.fstat(file.fileno()).st_size, len(data))  # some system files report size 0
        except OSError as error:
            raise _unreadable(path, error) from error
    if size > most:
        raise MissingInputError(f"{path} is too large: it has {size:,} bytes, but at most {most:,} are allowed.")
    return data


def lines(path: Path, longest: int) -> Iterator[str]:
    r"""The lines of a UTF-8 file, each with its line end (\n or \r\n), without a byte order mark.

    Args:
        path: the file.
        longest: largest number of bytes of a line.

    Raises:
        MissingInputError: see `open_file`; or a line is longer, or the file is not UTF-8 text.
    """
    number, start = 0, b""
    with open_file(path) as file:
        try:
            while line := file.readline(longest + 1):
                number += 1
                start = start or line[:_START]
                if len(line) > longest:
                    raise MissingInputError(f"{path}, line {number} has more than {longest:,} bytes.")
                if number == 1 and encoding_of(start):
                    raise MissingInputError(*not_utf8(path, start))
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise MissingInputError(*not_utf8(path, start, number)) from error
        except OSError as error:
            raise _unreadable(path, error) from error


def text_of(path: Path, data: bytes) -> str:
    """The text of the bytes of a file, without a byte order mark.

    Raises:
        MissingInputError: the bytes are not UTF-8 text.
    """
    try:
        if encoding_of(data[:_START]):
            raise MissingInputError(*not_utf8(path, data[:_START]))
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MissingInputError(*not_utf8(path, data[:_START], line)) from error


def not_utf8(path: Path | None, start: bytes, line: int | None = None) -> tuple[str, str]:
    """The sentence about a file that is not UTF-8 text, and its fix.

    Args:
        path: the file; None: standard input.
        start: its first bytes, which may show its kind.
        line: number of the line with the first wrong byte.
    """
    name, file = ("FILE", "standard input") if path is None else (quote(str(path)), str(path))
    if encoding := encoding_of(start):
        return f"{file} is {encoding} text, not UTF-8.", f"iconv -f {encoding} -t UTF-8 {name} > NEW"
    for signature, (kind, fix) in _FORMATS.items():
        if start.startswith(signature):
            return f"{file} is {kind}, not text.", fix.format(name)
    place = f"{file}, line {line}" if line else file
    return (
        f"{place} is not UTF-8 text.",
        f"iconv -f ENCODING -t UTF-8 {name} > NEW, with its own ENCODING, such as CP949 or ISO-8859-1",
    )


def encoding_of(start: bytes) -> str:
    """UTF-16 or UTF-32 if the first bytes of a file show it by a byte order mark or by zeros; else empty."""
    for mark, encoding in _ENCODINGS.items():
        if start.startswith(mark):
            return encoding
    zeros = (start[:1] == b"\0", start[1:2] == b"\0")
    return {(True, False): "UTF-16BE", (False, True): "UTF-16LE"}.get(zeros, "")


def _unreadable(path: Path, error: OSError) -> MissingInputError:
    denied = isinstance(error, PermissionError)
    fix = f"ls -ld {quote(str(path))}, then chmod or chown" if denied else None
    return MissingInputError(f"{path} cannot be read: {error.strerror or error}.", fix)
