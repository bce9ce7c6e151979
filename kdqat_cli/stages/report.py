"""report: what was measured, what is still missing, and what the paper has, a group of seeds a row.

Measurements are the files under metrics/. Which ones there should be is what the dvc.yaml of the working folder says,
if there is one: a run that it names and that was not measured is shown as missing.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.stages.folder import RUN
from kdqat_cli.stages.layout import METRICS, PIPELINE, RUNS
from kdqat_cli.stages.published import Published, Score, load_published
from kdqat_cli.stages.writing import write_text

_WHAT = {
    "teacher": "teacher, FP32",
    "ternary": "ternary, no training",
    "student": "ternary, distilled",
    "packed": "ternary, packed",
}
_MISSING = "missing"


@dataclass(frozen=True)
class Measurement:
    """One file under metrics/, or one that should be there.

    Attributes:
        seed: of a run that has one.
        metrics: what `kdqat evaluate` wrote; None: missing.
        seconds: of the stage that made the model, where it was made here.
    """

    seed: int | None
    metrics: dict[str, float] | None
    seconds: float | None

    @property
    def score(self) -> float | None:
        """The headline score in percent."""
        return None if self.metrics is None else self.metrics["score"]


@dataclass(frozen=True)
class Group:
    """The measurements of one run over its seeds.

    Attributes:
        task: the task.
        kind: `teacher`, `ternary`, `student` or `packed`.
        run: the run's name without its seed; "" where a task has one such model only.
        measurements: one a seed, by seed.
        published: what the published table says of it.
    """

    task: str
    kind: str
    run: str
    measurements: list[Measurement]
    published: Score | None

    @property
    def scores(self) -> list[float]:
        """The scores there are."""
        return [measured.score for measured in self.measurements if measured.score is not None]

    def mean(self, name: str) -> float | None:
        """The mean of one metric over the seeds that have it."""
        values = [m.metrics[name] for m in self.measurements if m.metrics is not None and name in m.metrics]
        return fmean(values) if values else None

    @property
    def spread(self) -> float | None:
        """The scores' sample standard deviation; None for fewer than two."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    def row(self) -> dict[str, Any]:
        """As a row for people."""
        size = self.mean("bytes")
        seconds = [measured.seconds for measured in self.measurements if measured.seconds is not None]
        row = {
            "task": self.task,
            "model": _WHAT.get(self.kind, self.kind),
            "run": self.run or None,
            "score": _MISSING if not self.scores else _score_text((fmean(self.scores), self.spread)),
            "seeds": "  ".join(_seed_text(measured) for measured in self.measurements) if self.run else None,
            "paper": _score_text(self.published) if self.published else None,
            "MB": None if size is None else size / 1e6,
            "FP32 / size": self.mean("ratio_to_fp32"),
            "seconds": fmean(seconds) if seconds else None,
        }
        further = {name: self.mean(name) for name in self._metric_names() if name.endswith("_score")}
        return row | further

    def record(self) -> dict[str, Any]:
        """As a value for programs: every seed, every metric's mean."""
        mean, spread = self.published or (None, None)
        return {
            "task": self.task,
            "model": self.kind,
            "run": self.run or None,
            "mean": fmean(self.scores) if self.scores else None,
            "std": self.spread,
            "seeds": [{"seed": m.seed, "score": m.score, "seconds": m.seconds} for m in self.measurements],
            "missing": [m.seed for m in self.measurements if m.metrics is None],
            "published_mean": mean,
            "published_std": spread,
            "metrics": {name: self.mean(name) for name in self._metric_names()},
        }

    def _metric_names(self) -> list[str]:
        return sorted({name for measured in self.measurements for name in measured.metrics or {}})


def report(published: str | None = None) -> list[Group]:
    """Everything under metrics/ and everything that dvc.yaml says should be there, in the order of tasks and models.

    Args:
        published: name of a published table to show beside it, or None.

    Raises:
        ConfigError: there is no such table.
        MissingInputError: nothing was measured yet, and no pipeline says what should be.
    """
    beside = load_published(published) if published else None
    found = METRICS.rglob("*.json")
    paths = dict.fromkeys([*_expected(), *sorted(found)])
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for path in paths:
        task, kind, run, seed = _parts(path)
        groups.setdefault((task, kind, run), []).append(_measurement(path, task, kind, seed))
    if not groups:
        raise MissingInputError(f"There are no measurements in {METRICS} yet.", "dvc repro")
    order = list(_WHAT)
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1]) if key[1] in order else len(order)))
    return [_group(key, groups[key], beside) for key in keys]


def write_report(groups: list[Group], out: Path) -> None:
    """Writes the groups: .md as a table for people, .csv and .json with every seed. A link is replaced, not followed.

    Raises:
        ConfigError: another ending, or a file that kdqat did not write is there.
        MissingInputError: the file cannot be written.
    """
    writers = {".md": _markdown, ".csv": _csv, ".json": _json}
    if out.suffix not in writers:
        raise ConfigError(f"{out} must end in one of {', '.join(writers)}.", f"--out {out.with_suffix('.md')}")
    if METRICS.absolute() in out.absolute().parents:
        raise ConfigError(f"{out} lies in {METRICS}, whose files are measurements.", f"--out {out.name}")
    write_text(out, writers[out.suffix](groups), _is_report)


def _is_report(text: str) -> bool:
    """Whether a file's text is a report: a table whose first columns are task and model."""
    return text.startswith(("| task | model |", "task,model,", '[\n  {\n    "task": '))


def _expected() -> Iterator[Path]:
    """The metrics that the pipeline of the working folder makes."""
    if not PIPELINE.is_file():
        return
    # Here, not above: DVC takes seconds to import, and a report without a pipeline has no use for it.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import Index

    try:
        with Repo(uninitialized=True) as repo:
            outs = [Path(out.fs_path) for out in Index.from_file(repo, str(PIPELINE.absolute())).metrics]
    except DvcException as error:
        raise ConfigError(f"DVC cannot read {PIPELINE}: {error}", "dvc status") from error
    here = Path.cwd()
    yield from (path.relative_to(here) for path in outs if path.is_relative_to(here / METRICS))


def _parts(path: Path) -> tuple[str, str, str, int | None]:
    """(task, kind, run, seed) of metrics/TASK/KIND.json or metrics/TASK/KIND/RUN-SEED.json."""
    _, task, *rest = path.with_suffix("").parts if path.suffix == ".json" else path.parts
    kind, name = rest[0], "/".join(rest[1:])
    run, dash, seed = name.rpartition("-")
    return (task, kind, run, int(seed)) if dash and seed.isdigit() else (task, kind, name, None)


def _measurement(path: Path, task: str, kind: str, seed: int | None) -> Measurement:
    if not path.is_file():
        return Measurement(seed, None, None)
    metrics = json.loads(path.read_text(encoding="utf-8"))
    run = RUNS / task / kind / (path.stem if path.parent.name == kind else "") / RUN
    seconds = json.loads(run.read_text(encoding="utf-8"))["seconds"] if run.is_file() else None
    return Measurement(seed, metrics, seconds)


def _group(key: tuple[str, str, str], measurements: list[Measurement], beside: Published | None) -> Group:
    task, kind, run = key
    published = None
    if beside is not None and kind in ("teacher", "student"):
        published = beside.score(run or kind, task)
    return Group(task, kind, run, sorted(measurements, key=lambda m: -1 if m.seed is None else m.seed), published)


def _markdown(groups: list[Group]) -> str:
    rows = [group.row() for group in groups]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(groups: list[Group]) -> str:
    text = StringIO()
    columns = ["task", "model", "run", "seed", "score", "published_mean", "published_std", "seconds"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for group in groups:
        mean, spread = group.published or (None, None)
        for measured in group.measurements:
            score = _MISSING if measured.score is None else measured.score
            writer.writerow([group.task, group.kind, group.run, measured.seed, score, mean, spread, measured.seconds])
    return text.getvalue()


def _json(groups: list[Group]) -> str:
    return json.dumps([group.record() for group in groups], indent=2, ensure_ascii=False) + "\n"


def _score_text(score: Score) -> str:
    mean, spread = score
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _seed_text(measured: Measurement) -> str:
    value = _MISSING if measured.score is None else f"{measured.score:.2f}"
    return value if measured.seed is None else f"{measured.seed}: {value}"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
