"""clean: what interrupted commands have left behind, listed and, where that is asked for, removed.

Only files that kdqat itself names are touched, in folders of results (store/folder.py):

    checkpoints   .kdqat-resume/DIGEST     of trainings that were interrupted, or that a sweep stopped; the same command
                                           would continue from them
    scratch       .kdqat-scratch, .kdqat-old   of a command that was killed while it wrote its results
    partial       .kdqat-PID-HEX           a file that was being written when its process was killed

A finished result (model/, history.csv, run.json) is never touched, nor what a command works on at this moment, nor
anything behind a link.
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
_FRESH = 3600.0  # seconds: a partial file this young may belong to a process of another machine


class Leftover(NamedTuple):
    """Something that can be removed."""

    what: What
    """Of what kind it is."""
    path: Path
    """A folder or a file."""
    bytes: int
    """Its size."""


def leftovers(folders: list[Path], kinds: tuple[What, ...] = KINDS) -> list[Leftover]:
    """What is left behind in folders of results, in the order of their paths.

    Args:
        folders: in which to look; none: runs/, sweeps/ and metrics/ of the working folder.
        kinds: what to look for.

    Raises:
        MissingInputError: there is no such folder.
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
        found: what `leftovers` found.
        remark: is told of each that stays because a command works in its folder.

    Returns:
        What was removed.
    """
    removed = []
    for leftover in found:
        folder = _result_folder(leftover.path)
        try:
            with locked(folder):
                _remove(leftover.path)
        except MissingInputError as error:
            remark(f"{leftover.path} stays: {error.sentence}")
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
    """The folder whose lock says whether a command works on a leftover."""
    return path.parent.parent if path.parent.name == RESUME else path.parent


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.name == RESUME and not any(path.parent.iterdir()):
        path.parent.rmdir()
