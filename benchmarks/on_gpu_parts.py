"""Runs the parts of on_gpu.py: processes with a deadline. If one fails, the others still run."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "failed", "out of time", "left out"]
LAST_LINES = 15
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: name of the measurement.
        command: the program and its arguments.
        folder: working folder.
        result: the JSON file that it writes, or None.
        needs: parts that must have succeeded before.
        environment: additional environment variables.
        unneeded: the reason why it need not run; empty: it must run.
    """

    name: str
    command: Sequence[str]
    folder: Path
    result: Path | None = None
    needs: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    unneeded: str = ""


@dataclass(frozen=True)
class Record:
    """The outcome of a part.

    Attributes:
        name: name of the part.
        state: `left out` if it did not run.
        note: why it was left out or failed; empty if it succeeded.
        seconds: wall-clock time.
        resident_mb: peak memory of its process on the processor's side, 10^6 bytes; None if it did not run.
        last_lines: last lines of its output, if it failed.
        result: its result, or what it had written before it failed.
    """

    name: str
    state: State
    note: str = ""
    seconds: float = 0.0
    resident_mb: float | None = None
    last_lines: list[str] = field(default_factory=list)
    result: Any = None

    @property
    def failed(self) -> bool:
        """Whether the part ran and did not succeed."""
        return self.state in ("failed", "out of time")

    def as_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


def run_group(parts: Sequence[Part], done: Mapping[str, Record], deadline: float, log: Path) -> list[Record]:
    """Runs parts at the same time. Kills those that exceed the deadline, with all processes that they started.

    Args:
        parts: the parts to run.
        done: the records of earlier parts, by name.
        deadline: a time of `time.monotonic`.
        log: file to which their output is appended, one part after the other.

    Returns:
        A record for each part.
    """
    records: list[Record] = []
    running: list[_Process] = []
    try:
        for part in parts:
            missing = [name for name in part.needs if name in done and done[name].state != "ok"]
            if part.unneeded or missing:
                note = part.unneeded or f"needs {', '.join(missing)}"
                records.append(Record(part.name, "left out", note))
                continue
            try:
                running.append(_Process(part, log))
            except OSError as error:  # no such program or folder
                records.append(Record(part.name, "failed", str(error), last_lines=[str(error)]))
        while any(not process.ended() for process in running) and time.monotonic() < deadline:
            time.sleep(_POLL)
    finally:
        for process in running:
            process.kill()
            records.append(process.record(log))
    return records


class _Process:
    """A running part, which leads a process group of its own."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part = part
        self.output = log.with_name(f".{log.name}.{part.name.replace(' ', '-')}")
        self._start = time.monotonic()
        self._status: int | None = None
        self._killed = False
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                part.command,
                cwd=part.folder,
                env=os.environ | part.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, wait: bool = False) -> bool:
        """Whether its process has ended."""
        if self._status is None:
            # Not Popen.wait, because it does not return the memory of the process.
            pid, status, usage = os.wait4(self._process.pid, 0 if wait else os.WNOHANG)
            if pid:
                self._status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self._seconds = time.monotonic() - self._start
                self._resident = usage.ru_maxrss / 1e3
        return self._status is not None

    def kill(self) -> None:
        """Kills the process if it still runs, and in any case the processes that it started."""
        self._killed = not self.ended()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.ended(wait=True)

    def record(self, log: Path) -> Record:
        """Returns the outcome, and appends the output to the log."""
        text = self.output.read_text(encoding="utf-8", errors="replace")
        self.output.unlink()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"==== {self.part.name}: {shlex.join(self.part.command)}\n{text}\n")
        state: State = "out of time" if self._killed else "ok" if self._status == 0 else "failed"
        note = "" if state == "ok" else f"killed after {self._seconds:.0f} s"
        if state == "failed":
            note = f"exit code {self._status}"
        last = [] if state == "ok" else text.splitlines()[-LAST_LINES:]
        result = _read(self.part.result)
        if state == "ok" and self.part.result and result is None:
            state, note, last = "failed", f"wrote no {self.part.result.name}", text.splitlines()[-LAST_LINES:]
        return Record(self.part.name, state, note, round(self._seconds, 1), round(self._resident, 1), last, result)


def _read(path: Path | None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
