"""The command that starts a project: init."""

from typing import Annotated

import typer

from kdqat_cli.commands.app import command, start
from kdqat_cli.commands.options import (
    ColumnOptions,
    EncoderOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    numbers_option,
)
from kdqat_cli.commands.panels import PROJECTS

_SourceArgument = Annotated[
    str | None,
    typer.Argument(help="File of rows (.csv, .tsv, .jsonl), which becomes a task; or the folder of a teacher."),
]
_TaskOption = Annotated[str | None, typer.Option("--task", help="An existing task; `kdqat ls tasks` lists them.")]
_PipelineOption = Annotated[
    str | None, typer.Option("--pipeline", help="A paper's pipeline; `kdqat ls pipelines` lists them.")
]
_NameOption = Annotated[str | None, typer.Option("--name", help="Name of the new task. [default: that of the file]")]
_TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="A model that is fine-tuned already: folder or hub id.")
]


@command(PROJECTS)
def init(
    source: _SourceArgument = None,
    task: _TaskOption = None,
    pipeline: _PipelineOption = None,
    name: _NameOption = None,
    *,
    columns: ColumnOptions,
    teacher: _TeacherOption = None,
    encoder: EncoderOption = None,
    recipe: RecipeOption = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds of the students. [default: 42]")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Only show what was found; write nothing.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Begin a project: write a task, params.yaml and dvc.yaml.

    For example: `kdqat init tickets.csv`, then `kdqat repro`. Columns and labels are found and shown. No file is
    ever replaced.
    """
    output = start(json, quiet)
    from kdqat_cli.projects.guess import Given
    from kdqat_cli.projects.project import Choice
    from kdqat_cli.stages.init import Wanted, check_wanted
    from kdqat_cli.stages.init import init as stage

    wanted = Wanted(source, task, pipeline, name, columns.skip_bad_rows)
    named = columns.text_column, columns.pair_column, columns.label_column
    given = Given(*named, columns.quoting, columns.multi_label)
    numbers = None if seeds is None else numbers_option("--seeds", seeds, "1,2,3")
    choice = check_wanted(wanted, given, Choice(encoder, teacher, recipe, numbers))
    told = stage(wanted, given, choice, dry)
    output.result(told if json else {name: _shown(value) for name, value in told.items()})
    if not dry:
        output.remark("`kdqat repro --dry` lists what would run, and `kdqat repro` runs it.")


def _shown(value: object) -> object:
    """A value in readable form: counts and lists in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({count})" for name, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
