"""card: an export, its metrics over all seeds and its measured times → its model card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from kdqat_cli.cards.card import card as text_of
from kdqat_cli.cards.facts import Facts, Measured, Score, foreign_facts, packed_facts
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import read_bytes
from kdqat_cli.files import text_of as decoded
from kdqat_cli.record import Record
from kdqat_cli.store.figures import Compared, Metrics, Run, Size, factors_of, read_metrics, read_run
from kdqat_cli.store.folder import MODEL, RUN, refuse_inside
from kdqat_cli.store.places import METRICS, RUNS, metrics_place
from kdqat_cli.store.seal import CARD, is_sealed
from kdqat_cli.store.writing import refuse_target, write_text
from kdqat_cli.tasks.records import model_folder, recorded

_SIZE = ("parameters", "bytes", "bits_per_weight", "ratio_to_fp32")
_NO_SCORE = ("rows", "threshold")  # ends of names of figures that are not scores, of any split
_LARGEST_BENCH = 2**20  # bytes
_EXPORT = "kdqat export, whose folder holds model/ and run.json"


class Carded(TypedDict):
    """The result of `card`."""

    file: str
    """Path of the card."""
    score: float | None
    """The headline score in percent, as the mean over the seeds; None: not measured."""
    seeds: list[int | None]
    """Seeds that were measured."""


class _Scored(NamedTuple):
    seed: int | None
    metrics: Metrics


def card(
    model: str,
    out: Path | None = None,
    metrics: list[Path] | None = None,
    bench: Path | None = None,
    remark: Callable[[str], None] = lambda text: None,
) -> Carded:
    """Writes the model card of an export.

    Args:
        model: the folder that `export` wrote.
        out: the file to write; None: README.md beside the folder model/.
        metrics: files that `kdqat evaluate --out` wrote for this model and for the same model with other seeds; empty:
            those under metrics/ whose path matches the model's path under runs/.
        bench: a file with the output of `kdqat bench --json` for this model, or None.
        remark: called with a sentence for each file under metrics/ that does not fit.

    Raises:
        ConfigError: the model is not an export; a file of metrics or times belongs to another model; or `out` is a file
            that kdqat did not write or that was edited, or it is inside the model.
        MissingInputError: there is no model, or a file is damaged.
    """
    record, folder = recorded(model), model_folder(model)
    if record.kind not in ("packed", "export"):
        raise ConfigError(f"{model} is not an export; a model card describes an export.", "kdqat export")
    if folder.name != MODEL or not (folder.parent / RUN).is_file():
        raise MissingInputError(f"There is no {RUN} beside the model of {model}.", _EXPORT)
    target = out or folder.parent / CARD
    refuse_inside(target, {"model": str(folder)})
    refuse_target(target, is_sealed)
    run = read_run(folder.parent / RUN)
    scored = _scored(record, folder.parent, run, metrics or [], remark)
    facts = _facts(record, folder, run, _measured(scored))
    if bench is not None:
        facts = _timed(facts, bench)
    write_text(target, text_of(facts), is_sealed)
    headline = facts.measured.scores[0].mean if facts.measured else None
    return {"file": str(target), "score": headline, "seeds": [one.seed for one in scored]}


def _facts(record: Record, folder: Path, run: Run, measured: Measured | None) -> Facts:
    size: Size = _size(run, folder)
    if record.kind == "packed":
        return packed_facts(record, folder, size, measured)
    from kdqat_cli.exporters.catalogue import FORMATS

    if record.format not in FORMATS:
        fix = "plugins: in params.yaml, where a plugin adds the format"
        raise ConfigError(f"kdqat does not know the format {record.format} of {folder}.", fix)
    if run.rows is None or run.rows_differing is None or run.score is None:
        raise MissingInputError(f"{folder.parent / RUN} has no comparison of the export with its student.", _EXPORT)
    compared: Compared = {"rows": run.rows, "rows_differing": run.rows_differing, "score": run.score}
    return foreign_facts(record, folder, size, FORMATS[record.format], compared, measured)


def _size(run: Run, folder: Path) -> Size:
    if run.parameters is None or run.bytes is None or run.bits_per_weight is None or run.ratio_to_fp32 is None:
        raise MissingInputError(f"{folder.parent / RUN} does not have the size of the model.", _EXPORT)
    return {
        "parameters": run.parameters,
        "bytes": run.bytes,
        "bits_per_weight": run.bits_per_weight,
        "ratio_to_fp32": run.ratio_to_fp32,
    }


def _scored(record: Record, folder: Path, run: Run, given: list[Path], remark: Callable[[str], None]) -> list[_Scored]:
    """The metrics of a model and of the same model with other seeds, in the order of the seeds; each seed once."""
    found: dict[int | None, _Scored] = {}
    for path in given or _places(folder, record.seed):
        metrics = read_metrics(path)
        fault = _fault(record, run, metrics)
        seed = metrics.model.seed if metrics.model else None
        if fault is None and seed in found:
            fault = f"another file has the seed {seed} too"
        if fault is None:
            found[seed] = _Scored(seed, metrics)
        elif given:
            raise ConfigError(f"{path} does not fit {folder}: {fault}.", f"kdqat evaluate {folder} --out {path}")
        else:
            remark(f"{path} is left out: {fault}.")
    return sorted(found.values(), key=lambda one: -1 if one.seed is None else one.seed)


def _places(folder: Path, seed: int | None) -> list[Path]:
    """The files under metrics/ whose path matches a folder under runs/, and those of the same run with other seeds."""
    if not folder.absolute().is_relative_to(RUNS.absolute()):
        return []
    path = METRICS / f"{folder.absolute().relative_to(RUNS.absolute())}.json"
    own = metrics_place(path)
    if own is None:
        return []
    run, _ = own.split(seed)
    paths = sorted(path.parent.glob("*.json")) if own.run else [path]
    places = [(other, metrics_place(other)) for other in paths if other.is_file()]
    return [other for other, place in places if place is not None and (other == path or place.split()[0] == run)]


def _fault(record: Record, run: Run, metrics: Metrics) -> str | None:
    """Why metrics belong neither to a model nor to the same model with another seed; None: they belong to one."""
    if metrics.model is None:
        return "an earlier kdqat wrote it, and it does not name its model"
    expected = factors_of(record, metrics.model.task)
    if metrics.model.task != record.task:
        return f"it belongs to the task {metrics.model.task}"
    for name, value in expected.model_dump(exclude={"seed"}).items():
        if getattr(metrics.model, name) != value:
            return f"it has {name} {getattr(metrics.model, name)}, but this model has {value}"
    if metrics.not_to_be_quoted != record.not_to_be_quoted:
        return f"it is not to be quoted: {metrics.not_to_be_quoted}"
    if metrics.model.seed == record.seed and metrics.figures.get("bytes", run.bytes) != run.bytes:
        return "it was measured on a file of another size"
    return None


def _measured(scored: list[_Scored]) -> Measured | None:
    if not scored:
        return None
    figures = [one.metrics.figures for one in scored]
    names = [name for name in figures[0] if name not in _SIZE and not name.endswith(_NO_SCORE)]
    scores = [Score(name, [row[name] for row in figures]) for name in names if all(name in row for row in figures)]
    whose = "this model" if len(scored) == 1 else "this model and the same model with other seeds"
    return Measured(scores, [one.seed for one in scored], f"{whose}, measured by `kdqat evaluate`", True)


def _timed(facts: Facts, path: Path) -> Facts:
    """The facts, with the times that a file has."""
    try:
        value: Any = json.loads(decoded(path, read_bytes(path, _LARGEST_BENCH)))
        digest, rows, machine = value["sha256"], value["latency"], value["machine"]
        machine = f"{machine}, threads {value['threads']}, {value['date']}"
        speed = [{column: row[column] for column in ("rows × tokens", "engine", "ms", "rows/s")} for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MissingInputError(f"{path} is not output of `kdqat bench --json`.", "kdqat bench --json") from error
    if digest != facts.digest:
        raise ConfigError(f"{path} was measured on a file other than {facts.file}.", "kdqat bench --json")
    return facts.with_speed(speed, machine)
