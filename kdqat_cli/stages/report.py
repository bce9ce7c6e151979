"""report: a table of the measurements, with missing ones and the paper's numbers; one row per run, over its seeds.

Measurements are the files metrics/TASK/MODEL.json and metrics/TASK/MODEL/RUN-SEED.json. The file has the factors of its
model (task, kind, seed, quantiser); the name of the run comes from the path. If the working folder has a dvc.yaml that
names measurements, there are two special cases:

- A measurement that dvc.yaml names, but that does not exist, is shown as missing.
- A measurement that dvc.yaml does not name (of a removed task or seed, or made by hand) is marked, and its row is last.

A file that is not a measurement is left out, with a remark. For a missing measurement, and for a file that an earlier
kdqat wrote, the factors come from the path, and the quantiser from the record beside the model
(runs/…/model/kdqat.json).
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from kdqat_cli.analysis.published import SCORE, Published, PublishedCell, load_published
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.store.figures import DamagedError, Metrics, read_metrics, read_run
from kdqat_cli.store.folder import ABOUT, MODEL, RUN, model_record
from kdqat_cli.store.places import METRICS, PIPELINE, RUNS, Place, metrics_place
from kdqat_cli.store.writing import write_text

_WHAT = {"teacher": "teacher, FP32", "ternary": "no training", "student": "distilled", "packed": "packed"}
_QUANTISED = ("ternary", "student", "packed")  # kinds of models whose records name a quantiser
_MISSING = "missing"
_UNKNOWN = "not known"  # a published number whose value is not known here
_OURS = {"MB": "MB", "bits": "bits_per_weight"}  # published quantity → name here, if it differs or is a column already
_APART = f"not in {PIPELINE}"
_SMOKE = "smoke run, not to be quoted"
Remark = Callable[[str], None]


class _Key(NamedTuple):
    """The factors that all measurements of a group have; see `Group`."""

    task: str
    kind: str
    run: str
    current: bool


@dataclass(frozen=True)
class Measurement:
    """One file under metrics/, or one that is missing.

    Attributes:
        seed: seed of the training; None: the run has none.
        metrics: the figures that `kdqat evaluate` wrote, by name; None: missing.
        seconds: wall-clock seconds of the stage that made the model; None: it was made elsewhere.
        weights: quantiser of the weights; None: not known.
        not_to_be_quoted: why the score says nothing about the method, for example a smoke run; None: it may be quoted.
    """

    seed: int | None
    metrics: dict[str, float] | None
    seconds: float | None
    weights: str | None
    not_to_be_quoted: str | None = None

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
        run: the run's name without its seed; "": a task has only one such model.
        current: whether the pipeline names the run, or there is no pipeline.
        measurements: one per seed, in the order of the seeds.
        published: the published numbers of this run; None: none.
        quantities: names of the quantities of the published table; empty: there is no table.
    """

    task: str
    kind: str
    run: str
    current: bool
    measurements: list[Measurement]
    published: PublishedCell | None
    quantities: list[str]

    @property
    def weights(self) -> list[str]:
        """The known quantisers of the weights: one name, unless the seeds differ."""
        return sorted({measured.weights for measured in self.measurements if measured.weights is not None})

    @property
    def what(self) -> str:
        """The kind of the models, as a text for users."""
        what = _WHAT.get(self.kind, self.kind)
        quantised = ["/".join(self.weights)] if self.weights and self.kind in _QUANTISED else []
        marks = [_SMOKE] if self.not_to_be_quoted else []
        return ", ".join([*quantised, what, *marks, *([] if self.current else [_APART])])

    @property
    def not_to_be_quoted(self) -> list[str]:
        """Why some scores say nothing about the method, for example because of smoke runs."""
        return sorted({one.not_to_be_quoted for one in self.measurements if one.not_to_be_quoted is not None})

    @property
    def scores(self) -> list[float]:
        """The scores of the measurements that are not missing."""
        return [measured.score for measured in self.measurements if measured.score is not None]

    @property
    def printed(self) -> tuple[float | None, float | None]:
        """Mean and standard deviation of the score in the published table; None: not known."""
        return (self.published or {}).get(SCORE) or (None, None)

    def mean(self, name: str) -> float | None:
        """The mean of one metric over the seeds that have it; None: no seed has it."""
        values = [m.metrics[name] for m in self.measurements if m.metrics is not None and name in m.metrics]
        return fmean(values) if values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation of the scores; None: fewer than two."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    def row(self) -> dict[str, object]:
        """The group as a row of the printed table."""
        size = self.mean("bytes")
        seconds = [measured.seconds for measured in self.measurements if measured.seconds is not None]
        row: dict[str, object] = {
            "task": self.task,
            "model": self.what,
            "run": self.run or None,
            "score": _MISSING if not self.scores else _score_text((fmean(self.scores), self.spread)),
            "seeds": "  ".join(_seed_text(measured) for measured in self.measurements) if self.run else None,
            "paper": self._paper(SCORE),
            "MB": None if size is None else size / 1e6,
            "FP32 / size": self.mean("ratio_to_fp32"),
            "seconds": fmean(seconds) if seconds else None,
        }
        further: dict[str, object] = {name: self.mean(name) for name in self._metric_names() if name.endswith("_score")}
        for name in self.quantities:
            if name != SCORE:
                ours = _OURS.get(name, name)
                further |= {} if ours in row else {ours: self.mean(ours)}
                further |= {f"paper {name}": self._paper(name)}
        if self.quantities and SCORE not in self.quantities:
            del row["paper"]
        return row | further

    def _paper(self, quantity: str) -> str | None:
        """The published value as a text for users; None: the table has none."""
        if self.published is None or quantity not in self.published:
            return None
        value = self.published[quantity]
        return _UNKNOWN if value is None else _score_text(value)

    def record(self) -> dict[str, object]:
        """The group as a JSON object: every seed, and the mean of every metric."""
        mean, spread = self.printed
        return {
            "task": self.task,
            "model": self.kind,
            "weights": "/".join(self.weights) or None,
            "run": self.run or None,
            "current": self.current,
            "not_to_be_quoted": self.not_to_be_quoted,
            "mean": fmean(self.scores) if self.scores else None,
            "std": self.spread,
            "seeds": [{"seed": m.seed, "score": m.score, "seconds": m.seconds} for m in self.measurements],
            "missing": [m.seed for m in self.measurements if m.metrics is None],
            "published_mean": mean,
            "published_std": spread,
            "published": self.published and {name: value and list(value) for name, value in self.published.items()},
            "metrics": {name: self.mean(name) for name in self._metric_names()},
        }

    def _metric_names(self) -> list[str]:
        return sorted({name for measured in self.measurements for name in measured.metrics or {}})


def report(published: str | None = None, remark: Remark = lambda text: None) -> list[Group]:
    """Reads all measurements under metrics/, and finds those that dvc.yaml names and that are missing.

    Args:
        published: name of a published table to show beside our results, or None.
        remark: called with a sentence for each file under metrics/ that is not a measurement, and for each damaged
            run.json.

    Returns:
        The groups, in the order of tasks and of kinds of models; those that dvc.yaml does not name are last.

    Raises:
        ConfigError: there is no such table, or DVC cannot read dvc.yaml.
        MissingInputError: there are no measurements, and no pipeline names any.
    """
    beside = load_published(published) if published else None
    expected = set(_expected())
    groups: dict[_Key, list[Measurement]] = {}
    for path in sorted({*expected, *METRICS.rglob("*.json")}):
        metrics, place = _metrics(path, remark), metrics_place(path)
        if place is not None and (metrics is not None or path in expected):
            key, measurement = _measurement(path, place, metrics, path in expected or not expected, remark)
            groups.setdefault(key, []).append(measurement)
    if not groups:
        raise MissingInputError(f"There are no measurements in {METRICS} yet.", "dvc repro")
    order = list(_WHAT)
    keys = sorted(
        groups, key=lambda key: (not key.current, key.task, (*order, key.kind).index(key.kind), bool(key.run))
    )
    return [_group(key, groups[key], beside) for key in keys]


def write_page(groups: list[Group], out: Path) -> None:
    """Writes the report as one page of HTML. A link at `out` is replaced by the file.

    Raises:
        ConfigError: `out` is a file that kdqat did not write.
        MissingInputError: the file cannot be written, or an analysis under analysis/ is damaged.
    """
    # Imported here, because the libraries for figures take seconds to import.
    from kdqat_cli.analysis.page_data import times
    from kdqat_cli.analysis.report_page import MARK, report_page

    chart = [
        {
            "task": group.task,
            "model": group.what,
            "run": group.run,
            "mean": fmean(group.scores) if group.scores else None,
            "MB": None if (size := group.mean("bytes")) is None else size / 1e6,
            **times(RUNS / group.task / group.kind / f"{group.run}-{group.measurements[0].seed}"),
        }
        for group in groups
    ]
    page = report_page([group.row() for group in groups], chart, _MISSING)
    write_text(out, page, lambda text: MARK in text)


def write_report(groups: list[Group], out: Path) -> None:
    """Writes the groups: .md as the printed table, .csv and .json with every seed. A link at `out` is replaced.

    Raises:
        ConfigError: `out` has another ending, is inside metrics/, or is a file that kdqat did not write.
        MissingInputError: the file cannot be written.
    """
    writers = {".md": _markdown, ".csv": _csv, ".json": _json}
    if out.suffix not in writers:
        raise ConfigError(f"{out} must end in one of {', '.join(writers)}.", f"--out {out.with_suffix('.md')}")
    if METRICS.absolute() in out.absolute().parents:
        raise ConfigError(f"{out} is in {METRICS}, whose files are measurements.", f"--out {out.name}")
    write_text(out, writers[out.suffix](groups), _is_report)


def _is_report(text: str) -> bool:
    """Whether a text is a report, that is, a table whose first columns are task and model."""
    return text.startswith(("| task | model |", "task,model,", '[\n  {\n    "task": '))


def _expected() -> Iterator[Path]:
    """The paths of the metrics that the pipeline of the working folder names."""
    if not PIPELINE.is_file():
        return
    # Imported here, because DVC takes seconds to import, and a report without a pipeline does not need it.
    from kdqat_cli.parallel.index import read_index

    outs = [Path(out.fs_path) for out in read_index(PIPELINE).metrics]
    here = Path.cwd()
    yield from (path.relative_to(here) for path in outs if path.is_relative_to(here / METRICS))


def _metrics(path: Path, remark: Remark) -> Metrics | None:
    """The metrics in a file; None: there is no such file, or, with a remark, it is not a measurement."""
    if metrics_place(path) is None:
        remark(f"{path} is left out: it is neither {METRICS}/TASK/MODEL.json nor {METRICS}/TASK/MODEL/RUN-SEED.json.")
    elif path.exists() or path.is_symlink():
        if not path.is_file():  # for example a named pipe, which would block
            remark(f"{path} is left out: it is not a file.")
            return None
        try:
            return read_metrics(path)
        except DamagedError as error:
            remark(f"{path} is left out: {error.reason}.")
    return None


def _measurement(
    path: Path, place: Place, metrics: Metrics | None, current: bool, remark: Remark
) -> tuple[_Key, Measurement]:
    model = metrics.model if metrics else None
    run, seed = place.split(model.seed if model else None)
    task, kind = (model.task, model.kind) if model else (place.task, place.model)
    if kind not in _WHAT:  # the folder's name, which the user chose, says more than "plain" or "export"
        kind = place.model
    folder = RUNS / path.relative_to(METRICS).with_suffix("")
    return _Key(task, kind, run, current), Measurement(
        seed if run else None,  # a task has only one such model, so its seed distinguishes nothing
        metrics.figures if metrics else None,
        _seconds(folder, remark) if metrics else None,
        model.weights if model else _weights(folder) if metrics and kind in _QUANTISED else None,
        metrics.not_to_be_quoted if metrics else None,
    )


def _seconds(folder: Path, remark: Remark) -> float | None:
    """The seconds of the stage that made a result; None: the result was made elsewhere, or its run.json is damaged."""
    if not (folder / RUN).is_file():
        return None
    try:
        return read_run(folder / RUN).seconds
    except DamagedError as error:
        remark(f"{error.sentence} The time of this run is left out.")
        return None


def _weights(folder: Path) -> str | None:
    """The quantiser in the record beside a model; None: no record can be read."""
    try:
        record = model_record(folder / MODEL) if (folder / MODEL / ABOUT).is_file() else None
    except KdqatError:
        return None
    return record.quantization.weights if record and record.quantization else None


def _group(key: _Key, measurements: list[Measurement], beside: Published | None) -> Group:
    kind, run, task = key.kind, key.run, key.task
    ordered = sorted(measurements, key=lambda m: -1 if m.seed is None else m.seed)
    group = Group(*key, ordered, None, beside.quantities if beside else [])
    if beside is None or kind not in beside.kinds or not set(group.weights) <= set(beside.weights):
        return group
    return replace(group, published=beside.cell(run or kind, task))


def _markdown(groups: list[Group]) -> str:
    rows = [group.row() for group in groups]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(groups: list[Group]) -> str:
    text = StringIO()
    columns = [
        "task",
        "model",
        "run",
        "seed",
        "score",
        "published_mean",
        "published_std",
        "seconds",
        "weights",
        "current",
        "not_to_be_quoted",
    ]
    writer = csv.writer(text, lineterminator="\n")
    further = [name for name in (groups[0].quantities if groups else []) if name != SCORE]
    writer.writerow([*columns, *(f"published_{name}" for name in further)])
    for group in groups:
        mean, spread = group.printed
        beside = [_printed(group.published, name) for name in further]
        for measured in group.measurements:
            row = [group.task, group.kind, group.run, measured.seed, measured.score, mean, spread, measured.seconds]
            writer.writerow([*row, measured.weights, group.current, measured.not_to_be_quoted, *beside])
    return text.getvalue()


def _json(groups: list[Group]) -> str:
    return json.dumps([group.record() for group in groups], indent=2, ensure_ascii=False) + "\n"


def _printed(cell: PublishedCell | None, quantity: str) -> float | str | None:
    """A published mean for the CSV file; None: the table has none."""
    if cell is None or quantity not in cell:
        return None
    value = cell[quantity]
    return _UNKNOWN if value is None else value[0]


def _score_text(score: tuple[float, float | None]) -> str:
    mean, spread = score
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _seed_text(measured: Measurement) -> str:
    value = _MISSING if measured.score is None else f"{measured.score:.2f}"
    return value if measured.seed is None else f"{measured.seed}: {value}"


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
