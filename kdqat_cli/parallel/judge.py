"""Finds trainings of a sweep to stop early, and records them in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kdqat_cli.config import Section
from kdqat_cli.parallel.median import Curve, hopeless
from kdqat_cli.parallel.scheduler import StageState
from kdqat_cli.store.figures import read_evaluations
from kdqat_cli.store.folder import HISTORY, RUN
from kdqat_cli.store.writing import write_json


class Stopped(Section):
    """A training that was stopped early."""

    digest: str
    """sha256 of its settings."""
    why: str
    """The reason, as a text for users."""


_STOPPED_FILE = TypeAdapter(dict[str, Stopped])
"""The content of stopped.json: name of the stage → the training."""


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep.

    Attributes:
        task: name of the task.
        values: value of each varied field, as text.
        seed: the seed.
        stage: DVC's address of its stage.
        folder: folder of its results.
        digest: sha256 of its settings.
    """

    task: str
    values: tuple[str, ...]
    seed: int
    stage: str
    folder: Path
    digest: str


class SweepJudge:
    """Finds running trainings to stop early, after each of their evaluations, and records them in stopped.json.

    Attributes:
        stopped: stage → the training, for those that were stopped now or in an earlier run.
    """

    def __init__(self, record: Path, runs: list[SweepRun], active: bool) -> None:
        self.record = record
        self.runs = {run.stage: run for run in runs}
        self.active = active
        self.seen: dict[str, int] = {}
        known = _STOPPED_FILE.validate_json(record.read_bytes()) if active and record.is_file() else {}
        # An entry does not count if the settings have changed since, or if the training was finished after all.
        self.stopped = {
            stage: entry
            for stage, entry in known.items()
            if (run := self.runs.get(stage)) and entry.digest == run.digest and not (run.folder / RUN).exists()
        }

    def __call__(self, states: Sequence[StageState]) -> dict[str, str]:
        """The stages to stop now, and the reason for each; the scheduler asks at intervals."""
        trainings = [state for state in states if state.name in self.runs]
        new = [state for state in trainings if state.state == "running" and self._has_news(state)]
        if not new or not self.active:
            return {}
        curves = {state.name: self._curve(state) for state in trainings}
        reasons = {}
        for state in new:
            task = self.runs[state.name].task
            others = [curve for name, curve in curves.items() if name != state.name and self.runs[name].task == task]
            reason = hopeless(curves[state.name], others)
            if reason is not None:
                reasons[state.name] = reason
                self.stopped[state.name] = Stopped(digest=self.runs[state.name].digest, why=reason)
        if reasons:  # written at once, so that an interruption does not lose it
            write_json(self.record, {stage: entry.model_dump() for stage, entry in self.stopped.items()})
        return reasons

    def _has_news(self, state: StageState) -> bool:
        known = self.seen.get(state.name)
        self.seen[state.name] = len(state.curve)
        return len(state.curve) != known

    def _curve(self, state: StageState) -> Curve:
        if state.curve:
            return state.curve
        history = self.runs[state.name].folder / HISTORY
        if state.state not in ("restored", "unchanged") or not history.is_file():
            return []
        evaluations, steps = read_evaluations(history)
        return [(evaluation.step / steps, evaluation.score) for evaluation in evaluations]


def is_stopped(text: str) -> bool:
    """Whether a text is the content of a stopped.json."""
    try:
        _STOPPED_FILE.validate_json(text)
    except ValidationError:
        return False
    return True
