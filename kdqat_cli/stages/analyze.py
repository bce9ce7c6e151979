"""analyze: a teacher and other models → tables of what quantisation changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch

from kdqat_cli.analysis.catalogue import MEASURES
from kdqat_cli.analysis.layers import attention_maps
from kdqat_cli.analysis.measure import Measure, Pair
from kdqat_cli.analysis.passes import maps_of, run_measures, spread
from kdqat_cli.analysis.result import MAPS, Analysis, AnalyzedModel, Row, Sentence, Shown, encoded, write_analysis
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import layers_of
from kdqat_cli.networks.nets import NETS
from kdqat_cli.output import Advance
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import factors_of
from kdqat_cli.store.folder import refuse_inside
from kdqat_cli.store.run import Stopwatch, versions
from kdqat_cli.tasks.kind import Loaded, Rows
from kdqat_cli.tasks.models import load_model
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import LabelledTask, Task

TEACHER = "teacher"
_MOST_TOKENS = 48  # largest number of tokens of a sentence with maps, because a larger figure cannot be read


class Analyzed(TypedDict):
    """The result of `analyze`."""

    folder: str
    """The folder of the tables."""
    rows: int
    """Number of dev rows that were measured."""
    tables: str
    """Names of the tables, with commas between them."""
    seconds: float
    """Wall-clock seconds."""


def analyze(
    task: Task,
    teacher: str,
    models: Mapping[str, str],
    measures: list[str],
    data_dir: Path | None,
    out: Path,
    advance: Advance,
    rows: int | None = None,
    sentences: list[int] | None = None,
    seed: int = 42,
) -> Analyzed:
    """Compares models with their teacher on dev rows.

    Args:
        task: the task.
        teacher: folder or hub id of the teacher.
        models: name of a model → its folder, packed file or hub id.
        measures: names of measures; one that does not apply to the task or the networks is left out.
        data_dir: folder of local task data, or None.
        out: output folder for analysis.json and one CSV file per table.
        advance: called after every batch.
        rows: number of dev rows to measure, evenly spread over the split; None: all.
        sentences: numbers, from 0, of dev rows whose attention maps are kept; None: two of middle length.
        seed: seed of the order of the batches and of the first vectors of the Hessian's eigenvalues.

    Raises:
        ConfigError: the labels of a model differ from the task's, a row number is not in the split, or `out` has a
            file that kdqat did not write.
        MissingInputError: a model or the data is missing, or `out` cannot be written.
    """
    watch = Stopwatch()
    refuse_inside(out, {"teacher": teacher, **models})
    found = _compared(task, {TEACHER: teacher, **models}, measures, data_dir, advance, rows, sentences, seed)
    write_analysis(found, out)
    return {"folder": str(out), "rows": found.rows, "tables": ", ".join(found.tables), "seconds": watch.seconds}


def _compared(
    task: Task,
    sources: Mapping[str, str],
    measures: list[str],
    data_dir: Path | None,
    advance: Advance,
    rows: int | None,
    sentences: list[int] | None,
    seed: int,
) -> Analysis:
    """The analysis of all sources; the first one is the teacher."""
    loaded = {name: load_model(source, task, f"The model {source}") for name, source in sources.items()}
    kind = kind_of(task)
    first = loaded[TEACHER]
    split = kind.rows(task, "dev", data_dir, first, kind.as_recorded(first, task, None))
    of = len(split.examples)
    chosen = spread(rows or of, of)
    part = split.part(chosen)
    pairs = _pairs(task, loaded, part, chosen, seed)
    made = {name: _made(pair, measures) for name, pair in pairs.items()}
    tables = _tables(pairs, made, measures, advance, seed)
    lacking = [name for name in measures if not any(name in own for own in made.values())]
    return Analysis(
        task=task.name,
        labels=task.labels if isinstance(task, LabelledTask) else None,
        rows=len(chosen),
        of=of,
        models=[_model(name, sources[name], one, task, part) for name, one in loaded.items()],
        tables={name: table for name, table in tables.items() if table},
        not_applicable=[*lacking, *([] if _attend(pairs) else [MAPS])],
        sentences=[_sentence(pairs, split, number) for number in _numbers(sentences, split, pairs)],
        shown=_shown(tables.get("disagreement", []), split),
        versions=versions(),
    )


def _tables(
    pairs: dict[str, Pair], made: dict[str, dict[str, Measure]], measures: list[str], advance: Advance, seed: int
) -> dict[str, list[Row]]:
    """The table of each measure, over all models."""
    run_measures(pairs, made, advance, seed)
    tables: dict[str, list[Row]] = {name: [] for name in measures}
    for name, own in made.items():
        for measure_name, measure in own.items():
            tables[measure_name] += [{"model": name, **row} for row in measure.table()]
    return tables


def _pairs(task: Task, loaded: dict[str, Loaded], rows: Rows, chosen: list[int], seed: int) -> dict[str, Pair]:
    teacher = loaded[TEACHER].model.eval()
    for one in loaded.values():
        if one.model.config.model_type not in NETS:
            use_kdqat_attention(one.model)  # of an FP32 model too, or no map is captured
    return {
        name: Pair(task, rows, chosen, teacher, one.model.eval(), _layers(loaded[TEACHER], one), seed)
        for name, one in loaded.items()
    }


def _layers(teacher: Loaded, model: Loaded) -> list[int] | None:
    """For each layer of the model, the number of its layer in the teacher; None: not encoders, or not recorded."""
    if {teacher.model.config.model_type, model.model.config.model_type} & set(NETS):
        return None
    theirs, ours = len(layers_of(teacher.model)), len(layers_of(model.model))
    if theirs == ours:
        return list(range(ours))
    kept = model.record.kept_layers
    return kept if kept is not None and len(kept) == ours and max(kept) < theirs else None


def _made(pair: Pair, measures: list[str]) -> dict[str, Measure]:
    found = {name: MEASURES[name].make(pair) for name in measures}
    return {name: measure for name, measure in found.items() if measure is not None}


def _model(name: str, source: str, loaded: Loaded, task: Task, rows: Rows) -> AnalyzedModel:
    return AnalyzedModel(
        name=name,
        source=source,
        factors=factors_of(loaded.record, task.name),
        score=rows.score(loaded.model)["score"],
        weights=None if loaded.weights is None else file_digest(loaded.weights),
        not_to_be_quoted=loaded.record.not_to_be_quoted,
    )


def _attend(pairs: dict[str, Pair]) -> bool:
    """Whether any of the models has attention maps."""
    return any(pair.layers is not None for pair in pairs.values())


def _numbers(wanted: list[int] | None, rows: Rows, pairs: dict[str, Pair]) -> list[int]:
    """The numbers of the rows whose maps are kept."""
    if not _attend(pairs):
        return []
    lengths = rows.lengths
    if wanted is None:
        middle = sorted(lengths)[len(lengths) // 2]
        fitting = [number for number, length in enumerate(lengths) if length <= _MOST_TOKENS]
        return sorted(sorted(fitting, key=lambda number: abs(lengths[number] - middle))[:2])
    for number in wanted:
        if not 0 <= number < len(lengths):
            raise ConfigError(f"--sentence {number}: the dev split has the rows 0 to {len(lengths) - 1}.")
        if lengths[number] > _MOST_TOKENS:
            raise ConfigError(
                f"--sentence {number}: the row has {lengths[number]} tokens; maps have at most {_MOST_TOKENS}."
            )
    return wanted


def _sentence(pairs: dict[str, Pair], rows: Rows, number: int) -> Sentence:
    """The attention maps of one row, from every model with as many layers and heads as the teacher."""
    sample = rows.sample(number)
    maps: dict[str, str] = {}
    shape: list[int] | None = None
    for name, pair in pairs.items():
        scores, counted = maps_of(pair.model, rows, number)
        values = torch.cat([attention_maps(layer, counted) for layer in scores]).float().cpu().numpy()
        shape = shape or list(values.shape[:3])
        if list(values.shape[:3]) == shape:
            maps[name] = encoded(values)
    if shape is None:
        raise MissingInputError(f"Row {number} has no attention maps.")
    return Sentence(row=number, texts=list(sample.texts), tokens=list(sample.tokens), maps=maps, shape=shape)


def _shown(disagreement: list[Row], rows: Rows) -> list[Shown]:
    from base64 import b64encode

    numbers = sorted({int(row["row"] or 0) for row in disagreement})
    shown = []
    for number in numbers:
        sample = rows.sample(number)
        picture = None if sample.picture is None else b64encode(sample.picture).decode()
        shown.append(Shown(row=number, texts=list(sample.texts), picture=picture))
    return shown
