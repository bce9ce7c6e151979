"""Commands that show what quantisation does: analyze, figure."""

from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli.commands.app import command, inputs, progress, start
from kdqat_cli.commands.options import (
    DataDirOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TaskOption,
    TeacherOption,
)
from kdqat_cli.commands.panels import STAGES
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.names import MEASURES
from kdqat_cli.params import use_plugins
from kdqat_cli.store.places import ANALYSIS, RUNS, teacher_folder

_ALL = "all"
_ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Models to compare with the teacher: folders or hub ids, or NAME=FOLDER. "
        "[default: every ternary model and student under runs/TASK]"
    ),
]
_MeasureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="NAME",
        help="Name that `kdqat ls measures` lists, or all; repeat for more. [default: all that take one pass]",
    ),
]


@command(STAGES)
def analyze(
    task: TaskOption,
    models: _ModelsArgument = None,
    teacher: TeacherOption = None,
    measure: _MeasureOption = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=2, help="Dev rows, evenly spread over the split. [default: all]")
    ] = None,
    sentence: Annotated[
        list[int] | None,
        typer.Option("--sentence", help="Dev row, from 0, whose attention maps are kept; repeat for more."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the tables. [default: analysis/TASK]")] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 42,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what quantisation changed in a model.

    Models are compared with their teacher on dev rows: attention maps and the ranking of their values, hidden states,
    weights, answers, curvature of the loss, and the score after one part at a time is put back to full precision.
    """
    use_plugins()
    _check_measures(measure or [])
    output = start(json, quiet)
    from kdqat_cli.stages.analyze import analyze as stage

    _, spec, data = inputs(task, data_dir)
    found = _named(models or []) or _under_runs(spec.name)
    names = _measures(measure or [])
    source = teacher or str(teacher_folder(spec.name))
    with progress(output, f"analyze {spec.name}") as advance:
        done = stage(
            spec, source, found, names, data, out or ANALYSIS / spec.name, advance, rows, sentence or None, seed
        )
    output.result(done)


def _check_measures(wanted: list[str]) -> None:
    for name in wanted:
        if name not in MEASURES and name != _ALL:
            raise ConfigError(
                f"--measure: there is no measure {name!r}; the measures are {MEASURES.listed()}.", "kdqat ls measures"
            )


def _measures(wanted: list[str]) -> list[str]:
    """The names of the measures to take."""
    if _ALL in wanted:
        return list(MEASURES)
    if wanted:
        return list(dict.fromkeys(wanted))
    from kdqat_cli.analysis.catalogue import MEASURES as SPECS

    return [name for name, spec in SPECS.items() if not spec.costly]


def _named(models: list[str]) -> dict[str, str]:
    """Name → source; the name is the text before =, else the last part of the path."""
    found: dict[str, str] = {}
    for given in models:
        name, equals, source = given.partition("=")
        if not equals or "/" in name:
            path = Path(given)
            path = path.parent if path.name == "model" else path
            name, source = path.name or given, given
        if name in found or name == "teacher":
            raise ConfigError(f"Two models are called {name}.", f"NAME={source}")
        found[name] = source
    return found


def _under_runs(task: str) -> dict[str, str]:
    """The ternary models and students of a task in the working folder; exports are left out, because they are equal."""
    from kdqat_cli.store.folder import ABOUT, MODEL, model_record

    records = [*RUNS.glob(f"{task}/ternary*/{MODEL}/{ABOUT}"), *RUNS.glob(f"{task}/student/*/{MODEL}/{ABOUT}")]
    folders = [path.parent for path in records if model_record(path.parent).kind in ("ternary", "student")]
    if not folders:
        raise MissingInputError(
            f"There is no model of {task} to compare with the teacher.", f"kdqat quantize --task {task}"
        )
    return {path.parent.name: str(path.parent) for path in sorted(folders)}


@command(STAGES)
def figure(
    names: Annotated[
        list[str], typer.Argument(help="Names that `kdqat ls figures` lists, or tables of the analysis by layer.")
    ],
    analysis: Annotated[Path, typer.Option("--analysis", help="Folder that `kdqat analyze` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for NAME.png and NAME.svg.")] = Path("figures"),
    sentence: Annotated[int, typer.Option("--sentence", help="For maps: number of the sentence, from 0.")] = 0,
    layer: Annotated[int, typer.Option("--layer", help="For maps: the layer, from 0; -1 is the last.")] = -1,
    head: Annotated[int, typer.Option("--head", min=0, help="For maps: the head, from 0.")] = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw figures of an analysis, as PNG and SVG.

    For example: `kdqat figure ranking maps --analysis analysis/rte`.
    """
    output = start(json, quiet)
    from kdqat_cli.stages.figure import figure as stage

    output.rows(stage(names, analysis, out, sentence, layer, head))
