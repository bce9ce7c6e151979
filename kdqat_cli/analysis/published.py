"""Published results, as data, for `kdqat report` to show beside ours.

A cell of a table has the result of one run on one task. It is a number; [mean, standard deviation]; or null, if a
number was published but is not known here. A cell with several quantities is a mapping. Its keys are `score` (the
headline on dev), `MB` (bytes of the model / 10⁶), `bits` (bits per weight) and names of metrics, for example
test_score.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdqat_cli.errors import ConfigError
from kdqat_cli.yaml12 import read_yaml

_PACKAGED = Path(__file__).parents[1] / "published"
SCORE = "score"

Value = tuple[float, float | None] | None
"""(mean, standard deviation or None if it was not printed); None: published, but not known here."""

PublishedCell = dict[str, Value]
"""Quantity → its value."""


@dataclass(frozen=True)
class Published:
    """One table.

    Attributes:
        name: value of `--published`.
        about: encoder and setting.
        source: paper and table.
        kinds: kinds of its models, as in records: teacher, student, packed.
        weights: quantisers of its students' weights.
        scores: run (a loss, or `teacher`) → task → cell.
    """

    name: str
    about: str
    source: str
    kinds: list[str]
    weights: list[str]
    scores: dict[str, dict[str, PublishedCell]]

    def cell(self, run: str, task: str) -> PublishedCell | None:
        """The published result of a run on a task, or None."""
        return self.scores.get(run, {}).get(task)

    @property
    def quantities(self) -> list[str]:
        """Names of all quantities in the table."""
        return list(dict.fromkeys(name for cells in self.scores.values() for cell in cells.values() for name in cell))


def published_names() -> list[str]:
    """Names of the packaged tables."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def load_published(name: str) -> Published:
    """Loads a packaged table.

    Raises:
        ConfigError: there is no table of this name.
    """
    if name not in published_names():
        raise ConfigError(f"There is no published table {name!r}.", "kdqat ls published")
    value: dict[str, Any] = read_yaml(_PACKAGED / f"{name}.yaml")
    scores = {run: {task: _cell(cell) for task, cell in cells.items()} for run, cells in value.pop("scores").items()}
    return Published(name=name, scores=scores, **value)


def _cell(given: Any) -> PublishedCell:
    named = given if isinstance(given, dict) else {SCORE: given}
    return {name: _value(value) for name, value in named.items()}


def _value(given: Any) -> Value:
    if isinstance(given, list):
        mean, spread = given
        return mean, spread
    return None if given is None else (given, None)
