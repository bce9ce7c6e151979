"""Published results, as data: what `kdqat report` shows beside ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdqat_cli.errors import ConfigError
from kdqat_cli.yaml12 import read_yaml

_PACKAGED = Path(__file__).parents[1] / "published"

Score = tuple[float, float | None]
"""Mean and standard deviation in percent; None: not printed."""


@dataclass(frozen=True)
class Published:
    """One table.

    Attributes:
        name: what `--published` calls it.
        about: encoder and setting.
        source: paper and table.
        scores: run (a loss, or `teacher`) → task → score.
    """

    name: str
    about: str
    source: str
    scores: dict[str, dict[str, Score]]

    def score(self, run: str, task: str) -> Score | None:
        """What the table says of a run on a task."""
        return self.scores.get(run, {}).get(task)


def published_names() -> list[str]:
    """Names of the packaged tables."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def load_published(name: str) -> Published:
    """A packaged table.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in published_names():
        raise ConfigError(f"There is no published table {name!r}.", "kdqat ls published")
    value: dict[str, Any] = read_yaml(_PACKAGED / f"{name}.yaml")
    scores = {
        run: {task: (cell[0], cell[1]) if isinstance(cell, list) else (cell, None) for task, cell in cells.items()}
        for run, cells in value["scores"].items()
    }
    return Published(name, value["about"], value["source"], scores)
