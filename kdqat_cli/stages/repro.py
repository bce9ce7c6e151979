"""repro: `dvc repro` with many stages at once, after which `dvc repro` itself finds nothing to do.

.kdqat/lock         held by the coordinator and by every job, so that two coordinators never work in one folder
.kdqat/logs/        what each stage printed the last time it ran (.log), and its progress (.jsonl: store/progress.py)

Both keep themselves out of git.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdqat_cli.errors import MissingInputError, StageError
from kdqat_cli.output import Board
from kdqat_cli.parallel.executor import Executor, LocalExecutor
from kdqat_cli.parallel.pipeline import Pipeline
from kdqat_cli.parallel.scheduler import Judge, Scheduler, StageState, tail

_OWN = Path(".kdqat")
_LOCK_WITHIN = 15.0  # seconds: how long the jobs of a coordinator that was killed may take to stop
_LAST_LINES = 5


def repro(
    targets: list[str], jobs: int | None, ray: str | None, board: Board, judge: Judge = lambda states: {}
) -> list[StageState]:
    """Reproduces what changed of a DVC pipeline, and commits it.

    Args:
        targets: as `dvc repro` takes them; none: the working folder's dvc.yaml.
        jobs: stages at once; None: as many as there are GPUs, else one.
        ray: address of a Ray cluster to run on; None: this machine.
        board: is shown how far the stages are.
        judge: is asked which running stages to stop early.

    Returns:
        Every stage, in an order in which they could have run.

    Raises:
        ConfigError: no DVC project, or a pipeline that DVC cannot read.
        MissingInputError: another `kdqat repro` works in this folder.
        KeyboardInterrupt: it was interrupted; the same call continues.
    """
    with _alone() as lock:
        pipeline = Pipeline(targets)
        executor = _executor(jobs, ray, lock)
        logs = _OWN / "logs"
        logs.mkdir(exist_ok=True)
        return Scheduler(pipeline, executor, logs, lambda states: board([state.row() for state in states]), judge).run()


def preview(targets: list[str]) -> list[dict[str, str | None]]:
    """What `repro` would do and why; nothing is written.

    Whether a stage runs that follows on another one's results is known only when these are there.
    """
    pipeline = Pipeline(targets)
    coming: set[str] = set()
    rows: list[dict[str, str | None]] = []
    with pipeline.locked():
        for name in pipeline.names:
            awaited = sorted(pipeline.needs[name] & coming)
            state, why = ("follows", f"needs {', '.join(awaited)}") if awaited else _previewed(pipeline, name)
            if state != "unchanged":
                coming.add(name)
            rows.append({"stage": name, "state": state, "why": why or None})
    return rows


def refuse_failures(states: Sequence[StageState]) -> None:
    """Raises a StageError that names the stages that failed, with the ends of their logs."""
    failed = [state for state in states if state.state == "failed"]
    if not failed:
        return
    parts = []
    for state in failed:
        lines = tail(state.log).splitlines()[-_LAST_LINES:] if state.log else []
        where = f" ({state.log})" if state.log else ""
        parts.append("\n".join([f"{state.name} failed: {state.why}{where}", *(f"    {line}" for line in lines)]))
    raise StageError("\n".join(parts), "the same command again, once that is mended: it continues from here")


def _previewed(pipeline: Pipeline, name: str) -> tuple[str, str]:
    try:
        state, why = pipeline.preview(name)
    except StageError as error:
        return "fails", error.sentence
    return "runs" if state == "running" else state, why


def _executor(jobs: int | None, ray: str | None, lock: int) -> Executor:
    if ray is None:
        return LocalExecutor(jobs, lock)
    from kdqat_cli.parallel.ray_executor import RayExecutor

    return RayExecutor(ray, jobs)


@contextmanager
def _alone() -> Iterator[int]:
    """Locks the working folder; the jobs inherit the lock, so that it outlives a coordinator that was killed."""
    _OWN.mkdir(exist_ok=True)
    (_OWN / ".gitignore").write_text("*\n", encoding="utf-8")
    lock = os.open(_OWN / "lock", os.O_RDWR | os.O_CREAT)
    end = time.monotonic() + _LOCK_WITHIN
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise MissingInputError("Another `kdqat repro` works in this folder.", "wait for it") from error
                time.sleep(0.2)
        yield lock
    finally:
        os.close(lock)
