"""The loop between DVC and the processes: it starts stages that are ready, and commits stages that have ended.

waiting ─► running ─► done
    │         ├─────► failed    its commands, or the commit of their outputs, failed
    │         └─────► stopped   by the caller, or with the whole run
    ├───────► unchanged         nothing to do
    ├───────► restored          from DVC's cache
    └───────► skipped           a stage that it needs failed or was stopped
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdqat_cli.errors import StageError
from kdqat_cli.output import StageRow
from kdqat_cli.parallel.executor import Executor
from kdqat_cli.parallel.pipeline import BusyError, Pipeline
from kdqat_cli.parallel.runner import STOPPED
from kdqat_cli.store.progress import EventReader

_TICK = 0.1
_TAIL = 8192  # bytes at the end of a log that are shown

StateName = Literal["waiting", "running", "done", "restored", "unchanged", "failed", "skipped", "stopped"]
_NOT_COMING = ("failed", "skipped", "stopped")


@dataclass
class StageState:
    """The progress of one stage.

    Attributes:
        name: its address in DVC.
        state: see the head of this file.
        why: the reason why it ran, or did not run.
        log: the file with the output of its commands.
        seconds: the time that its commands have been running, or ran.
        step: the step of a training.
        steps: number of steps of a training; 0: it has no steps.
        news: the last news.
        curve: its evaluations in this run.
    """

    name: str
    state: StateName = "waiting"
    why: str = ""
    log: Path | None = None
    seconds: float | None = None
    step: int = 0
    steps: int = 0
    news: str = ""
    curve: list[tuple[float, float]] = field(default_factory=list)

    def row(self) -> StageRow:
        """The progress as a row of a table."""
        return {
            "stage": self.name,
            "state": self.state,
            "why": self.why or None,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "step": self.step,
            "steps": self.steps,
            "news": self.news or None,
            "log": str(self.log) if self.log else None,
        }


Watch = Callable[[Sequence[StageState]], None]
"""Called with the states at intervals, and after the last change."""

Judge = Callable[[Sequence[StageState]], dict[str, str]]
"""From the states, the running stages to stop: name → reason."""


class Scheduler:
    """Reproduces a pipeline, many stages at once."""

    def __init__(self, pipeline: Pipeline, executor: Executor, logs: Path, watch: Watch, judge: Judge) -> None:
        """Sets the parts.

        Args:
            pipeline: DVC's part.
            executor: runs the commands.
            logs: folder for the logs of the stages.
            watch: called with the states.
            judge: chooses the stages to stop early.
        """
        self.pipeline = pipeline
        self.executor = executor
        self.logs = logs
        self.watch = watch
        self.judge = judge
        self.states = {name: StageState(name) for name in pipeline.names}
        self._started: dict[str, float] = {}
        self._events: dict[str, EventReader] = {}
        self._ended: dict[str, int] = {}
        self._stopped: set[str] = set()

    def run(self) -> list[StageState]:
        """Runs until nothing is left to do.

        A failed stage stops only the stages that need it. After Ctrl-C or SIGTERM, the running stages are asked to
        stop, and stages that have already succeeded are still committed, so that the same run continues from there.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        with _interruptible() as interrupted:
            while True:
                ended = self.executor.finished()
                self._measure()
                self._ended |= ended
                if interrupted():
                    self._stop(dict.fromkeys(self._running(), "interrupted"))
                if self._ended or (not interrupted() and self._next() is not None):
                    self._advance(interrupted)
                self._stop(self.judge(list(self.states.values())))
                self.watch(list(self.states.values()))
                if not self._running() and (interrupted() or self._next() is None):
                    break
                time.sleep(_TICK)
        if interrupted():
            raise KeyboardInterrupt
        return list(self.states.values())

    def _advance(self, interrupted: Callable[[], bool]) -> None:
        """Does all work that needs DVC's lock; if another process holds the lock, it is tried again later."""
        try:
            with self.pipeline.locked():
                while self._ended:
                    self._settle(*self._ended.popitem())
                while not interrupted() and (name := self._next()) is not None:
                    self._begin(self.states[name])
        except BusyError:
            return

    def _begin(self, stage: StageState) -> None:
        try:
            begun, stage.why = self.pipeline.begin(stage.name)
        except StageError as error:
            stage.state, stage.why = "failed", error.sentence
            return
        stage.state = begun
        if begun == "running":
            stage.log = self.logs / f"{stage.name.replace('/', '_')}.log"
            events = stage.log.with_suffix(".jsonl").absolute()
            events.unlink(missing_ok=True)  # the events of an earlier run
            self._events[stage.name] = EventReader(events)
            self.executor.start(self.pipeline.job(stage.name, stage.log.absolute(), events))
            self._started[stage.name] = time.monotonic()

    def _settle(self, name: str, code: int) -> None:
        stage = self.states[name]
        if code == 0:
            try:
                self.pipeline.finish(name)
            except StageError as error:
                stage.state, stage.why = "failed", error.sentence
            else:
                stage.state = "done"
            return
        self.pipeline.release(name)
        if code == STOPPED and name in self._stopped:
            stage.state = "stopped"
        else:
            stage.state, stage.why = "failed", f"exit code {code}"

    def _next(self) -> str | None:
        """The first stage that can start now, if a slot is free; marks stages that can never start."""
        free = len(self._running()) < self.executor.slots
        for stage in self.states.values():
            if stage.state != "waiting":
                continue
            lacking = [name for name in self.pipeline.needs[stage.name] if self.states[name].state in _NOT_COMING]
            if lacking:
                stage.state, stage.why = "skipped", f"needs {', '.join(sorted(lacking))}"
            elif free and all(self._settled(name) for name in self.pipeline.after[stage.name]):
                return stage.name
        return None

    def _settled(self, name: str) -> bool:
        return self.states[name].state not in ("waiting", "running")

    def _running(self) -> list[str]:
        return [stage.name for stage in self.states.values() if stage.state == "running"]

    def _stop(self, reasons: dict[str, str]) -> None:
        for name, reason in reasons.items():
            if name not in self._stopped and name not in self._ended:
                self._stopped.add(name)
                self.states[name].why = reason
                self.executor.stop(name)

    def _measure(self) -> None:
        for name in self._running():
            if name in self._ended:  # only its commit is missing
                continue
            stage = self.states[name]
            stage.seconds = time.monotonic() - self._started[name]
            for event in self._events[name].new():
                stage.step, stage.steps, stage.news = event.step, event.steps, event.news or stage.news
                if event.score is not None:
                    stage.curve.append((event.step / event.steps, event.score))


def tail(log: Path) -> str:
    """The end of a log; empty if there is no log yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Stores SIGINT and SIGTERM instead of raising, so that a commit is not interrupted; a second signal raises."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
