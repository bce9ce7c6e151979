"""clean: lists the files that interrupted commands left behind, or removes them.

Only files with kdqat's own names are removed, from folders of results (store/folder.py):

    checkpoints   .kdqat-resume/DIGEST         of a training that was interrupted, or that a sweep stopped; the same
                                               command would continue from them
    scratch       .kdqat-scratch, .kdqat-old   of a command that was killed while it wrote its results
    partial       .kdqat-PID-HEX               a file whose writer was killed

Never removed: a finished result (model/, history.csv, run.json), files in a folder that a command is using, and the
target of a link.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import psutil

from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import size_of
from kdqat_cli.stages.sweep import SWEEPS
from kdqat_cli.store.folder import MODEL, OLD, RESUME, SCRATCH
from kdqat_cli.store.lock import locked
from kdqat_cli.store.places import METRICS, RUNS

What = Literal["checkpoints", "scratch", "partial"]
KINDS: tuple[What, ...] = get_args(What)
_CHECKPOINTS = re.compile(r"[0-9a-f]{16}")
_ASIDE = re.compile(r"\.kdqat-(\d+)-[0-9a-f]{8}")
_FRESH = 3600.0  # seconds: a younger partial file may belong to a process on another machine


class Leftover(NamedTuple):
    """A file or folder that an interrupted command left behind."""

    what: What
    """Its kind."""
    path: Path
    """Path of the file or folder."""
    bytes: int
    """Its size in bytes."""


def leftovers(folders: list[Path], kinds: tuple[What, ...] = KINDS) -> list[Leftover]:
    """Finds leftovers in folders of results, in the order of their paths.

    Args:
        folders: folders to search; empty: runs/, sweeps/ and metrics/ of the working folder.
        kinds: kinds to find.

    Raises:
        MissingInputError: one of the folders is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise MissingInputError(f"There is no folder {folder}.", "kdqat clean, for runs/, sweeps/ and metrics/")
    roots = folders or [folder for folder in (RUNS, SWEEPS, METRICS) if folder.is_dir() and not folder.is_symlink()]
    found = {path: what for root in roots for what, path in _found(root)}
    return [Leftover(what, path, size_of(path)) for path, what in sorted(found.items()) if what in kinds]


def clean(found: list[Leftover], remark: Callable[[str], None]) -> list[Leftover]:
    """Removes leftovers.

    Args:
        found: the result of `leftovers`.
        remark: called with a sentence for each that is not removed because a command is using its folder.

    Returns:
        The leftovers that were removed.
    """
    removed = []
    for leftover in found:
        folder = _result_folder(leftover.path)
        try:
            with locked(folder):
                _remove(leftover.path)
        except MissingInputError as error:
            remark(f"{leftover.path} is not removed: {error.sentence}")
        else:
            removed.append(leftover)
    return removed


def _found(root: Path) -> Iterator[tuple[What, Path]]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        for name in names:
            path = here / name
            if path.is_symlink():
                continue
            if name in (SCRATCH, OLD):
                yield "scratch", path
            elif name == RESUME:
                yield from (
                    ("checkpoints", inner)
                    for inner in path.iterdir()
                    if _CHECKPOINTS.fullmatch(inner.name) and inner.is_dir() and not inner.is_symlink()
                )
        names[:] = [name for name in names if name not in (MODEL, SCRATCH, OLD, RESUME)]
        yield from (("partial", here / name) for name in files if _is_partial(here / name))


def _is_partial(path: Path) -> bool:
    found = _ASIDE.fullmatch(path.name)
    if found is None or path.is_symlink():
        return False
    return not psutil.pid_exists(int(found[1])) and time.time() - path.stat().st_mtime > _FRESH


def _result_folder(path: Path) -> Path:
    """The folder whose lock a command holds while it uses the leftover."""
    return path.parent.parent if path.parent.name == RESUME else path.parent


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.name == RESUME and not any(path.parent.iterdir()):
        path.parent.rmdir()
