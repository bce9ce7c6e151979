"""Progress events, which a training sends to the process that waits for it.

`kdqat repro` and `kdqat sweep` name a file in the variable `KDQAT_PROGRESS` of each stage that they start. A training
appends one JSON object per line to it; without the variable it writes nothing. The file is beside the log of the stage
in `.kdqat/logs/`, so it is not an output of DVC and not part of a result. Machines may share the file system.

    {"version": 1, "step": 137, "steps": 1370, "news": "dev score 91.20", "score": 91.2}
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field, ValidationError

from kdqat_cli.config import Section

PROGRESS = "KDQAT_PROGRESS"
"""The environment variable with the path of the file."""
_INTERVAL = 1.0  # seconds between two events without news


class DevScore(str):
    """The news of an evaluation: a text for users, with the score as a number."""

    def __new__(cls, score: float) -> "DevScore":
        """The news of a dev score in percent."""
        return super().__new__(cls, f"dev score {score:.2f}")

    def __init__(self, score: float) -> None:
        """Keeps the number."""
        self.score = score


class Event(Section):
    """The progress of a training."""

    version: Literal[1] = 1
    """Version of this schema."""
    step: int = Field(ge=0)
    """Number of optimiser steps so far."""
    steps: int = Field(gt=0)
    """Number of optimiser steps of the whole training."""
    news: str = ""
    """News as a text for users; empty: only the step is new."""
    score: float | None = None
    """Dev score of an evaluation, in percent."""


class EventWriter:
    """Appends events to the file that `KDQAT_PROGRESS` names, each with one write of a whole line."""

    def __init__(self) -> None:
        """Opens the file; without a file, or if it cannot be opened, nothing is written."""
        self._file: BinaryIO | None = None
        self._last = 0.0
        path = os.environ.get(PROGRESS)
        if path:
            with suppress(OSError):
                self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 (closed by `close`)

    def __call__(self, step: int, steps: int, news: str) -> None:
        """Writes an event if there is news, at the last step, or if the last event is at least a second old."""
        now = time.monotonic()
        if self._file is None or not (news or step == steps or now - self._last >= _INTERVAL):
            return
        self._last = now
        score = news.score if isinstance(news, DevScore) else None
        event = Event(step=step, steps=steps, news=str(news), score=score)
        try:
            self._file.write(event.model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError:  # for example a full disk: the training continues without events
            self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class EventReader:
    """Reads events while they are written."""

    def __init__(self, path: Path) -> None:
        """Starts at the beginning of a file, which need not exist yet."""
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        """The events since the last call. An incomplete line is left for the next call.

        Lines that are not events of this version are ignored, because they only report progress.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = []
        for line in whole.splitlines():
            with suppress(ValidationError):
                events.append(Event.model_validate_json(line))
        return events
