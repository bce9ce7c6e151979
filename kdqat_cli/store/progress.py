"""Progress as events: what a training tells the process that waits for it.

`kdqat repro` and `kdqat sweep` name a file in the variable `KDQAT_PROGRESS` of each stage that they start. A training
appends one JSON object per line to it; without the variable nothing is written. The file lies beside the stage's log in
`.kdqat/logs/`, so it is neither an output of DVC nor part of a result. It may lie on a file system that machines share.

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
"""Names the variable that holds the path of the file."""
_INTERVAL = 1.0  # seconds between two events without news


class DevScore(str):
    """The news of an evaluation: the text that people read, with its number."""

    def __new__(cls, score: float) -> "DevScore":
        """The news of a dev score in percent."""
        return super().__new__(cls, f"dev score {score:.2f}")

    def __init__(self, score: float) -> None:
        """Keeps the number."""
        self.score = score


class Event(Section):
    """How far a training is."""

    version: Literal[1] = 1
    """Version of this schema."""
    step: int = Field(ge=0)
    """Optimiser steps so far."""
    steps: int = Field(gt=0)
    """Optimiser steps of the whole training."""
    news: str = ""
    """What is new, for people; empty: nothing but the step."""
    score: float | None = None
    """Dev score of an evaluation, in percent."""


class EventWriter:
    """Appends events to the file that `KDQAT_PROGRESS` names, each as a whole line, at once."""

    def __init__(self) -> None:
        """Opens the file; where none is named, or it cannot be opened, nothing is written."""
        self._file: BinaryIO | None = None
        self._last = 0.0
        path = os.environ.get(PROGRESS)
        if path:
            with suppress(OSError):
                self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 (closed by `close`)

    def __call__(self, step: int, steps: int, news: str) -> None:
        """Takes what a training tells; without news it writes one event per second, and the last step's."""
        now = time.monotonic()
        if self._file is None or not (news or step == steps or now - self._last >= _INTERVAL):
            return
        self._last = now
        score = news.score if isinstance(news, DevScore) else None
        event = Event(step=step, steps=steps, news=str(news), score=score)
        try:
            self._file.write(event.model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError:  # a full disk, say: the training matters more than the news of it
            self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class EventReader:
    """Reads events while they are written."""

    def __init__(self, path: Path) -> None:
        """Starts at the beginning of a file, which need not be there yet."""
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        """The events since the last call. A line that is half written is left for the next call.

        Lines that are no events of this version are passed over: they only tell how far a stage is.
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
