"""repro: does the same as `dvc repro`, with many stages at once. Afterwards `dvc repro` finds nothing to do.

    .kdqat/lock     locked by this process (the coordinator) and by all its jobs, so that a folder has one coordinator
    .kdqat/logs/    output of the last run of each stage (.log), and its progress (.jsonl, see store/progress.py)

.kdqat/ has a .gitignore of its own.
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
_LOCK_WITHIN = 15.0  # seconds to wait for the lock: the jobs of a killed coordinator need some time to stop
_LAST_LINES = 5


def repro(
    targets: list[str], jobs: int | None, ray: str | None, board: Board, judge: Judge = lambda states: {}
) -> list[StageState]:
    """Runs the changed stages of a DVC pipeline, and commits their results.

    Args:
        targets: stages or dvc.yaml files, as for `dvc repro`; empty: the dvc.yaml of the working folder.
        jobs: largest number of stages that run at once; None: the number of GPUs, or one without GPUs.
        ray: address of a Ray cluster to run on; None: this machine.
        board: called with the states of the stages, to show them.
        judge: called with the states of the stages; returns the running stages to stop early, with the reasons.

    Returns:
        The states of all stages, in an order that respects their dependencies.

    Raises:
        ConfigError: this is not a DVC project, or DVC cannot read the pipeline.
        MissingInputError: another `kdqat repro` is running in this folder.
        KeyboardInterrupt: interrupted; the same call continues.
    """
    with _alone() as lock:
        pipeline = Pipeline(targets)
        executor = _executor(jobs, ray, lock)
        logs = _OWN / "logs"
        logs.mkdir(exist_ok=True)
        return Scheduler(pipeline, executor, logs, lambda states: board([state.row() for state in states]), judge).run()


def preview(targets: list[str]) -> list[dict[str, str | None]]:
    """The action that `repro` would take for each stage, and its reason; nothing is written.

    A stage that needs the result of another changed stage has the state `follows`: whether it must run is known only
    when that result is there.
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
    """Reports stages that failed.

    Raises:
        StageError: there are some; the message has their names and the ends of their logs.
    """
    failed = [state for state in states if state.state == "failed"]
    if not failed:
        return
    parts = []
    for state in failed:
        lines = tail(state.log).splitlines()[-_LAST_LINES:] if state.log else []
        where = f" ({state.log})" if state.log else ""
        parts.append("\n".join([f"{state.name} failed: {state.why}{where}", *(f"    {line}" for line in lines)]))
    raise StageError("\n".join(parts), "the same command again, after a repair: it continues from here")


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
    """Locks the working folder; the jobs inherit the lock, so it outlives a killed coordinator until its jobs end."""
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
                    raise MissingInputError(
                        "Another `kdqat repro` is running in this folder.", "the same command again, when it has ended"
                    ) from error
                time.sleep(0.2)
        yield lock
    finally:
        os.close(lock)
