"""Commands over many runs: report, repro, sweep."""

from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli import __version__
from kdqat_cli.commands.app import command
from kdqat_cli.commands.options import JobsOption, JsonOption, QuietOption, RayOption, RecipeOption, TeacherOption
from kdqat_cli.commands.panels import PROJECTS, STAGES
from kdqat_cli.config import Params, field_help
from kdqat_cli.output import Output
from kdqat_cli.params import load_params, refuse_other_version


@command(STAGES)
def report(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write too: .md (the table), .csv or .json (every seed).")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Page to write too, with the figures of analysis/ and attention maps."),
    ] = None,
    published: Annotated[str | None, typer.Option("--published", help=field_help(Params, "published"))] = None,
    json: JsonOption = False,
) -> None:
    """Show the results of the pipeline.

    The table has mean and spread over seeds, sizes and times; it also names the missing results.
    """
    from kdqat_cli.stages.report import report as stage
    from kdqat_cli.stages.report import write_page, write_report

    output = Output(json)
    groups = stage(published or load_params().published, output.remark)
    if out is not None:
        write_report(groups, out)
    if html is not None:
        write_page(groups, html)
    output.rows([group.record() if json else group.row() for group in groups])


@command(PROJECTS)
def repro(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or dvc.yaml files, as for `dvc repro`. [default: ./dvc.yaml]")
    ] = None,
    jobs: JobsOption = None,
    ray: RayOption = None,
    dry: Annotated[bool, typer.Option("--dry", help="Only list what would run, and why.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run what changed in a DVC pipeline.

    Several stages run at once. The result of each is recorded as `dvc repro` does it.
    """
    refuse_other_version(__version__)
    output = Output(json, quiet)
    from kdqat_cli.stages.repro import preview, refuse_failures
    from kdqat_cli.stages.repro import repro as stage

    if dry:
        output.changes(preview(targets or []))
        return
    with output.board() as board:
        states = stage(targets or [], jobs, ray, board)
    output.changes([state.row() for state in states])
    refuse_failures(states)


@command(PROJECTS)
def sweep(
    name: Annotated[str, typer.Argument(help="Name of the folder under sweeps/ for the results.")],
    over: Annotated[
        list[str],
        typer.Option(
            "--over", help="Values of a field of the recipe; repeat for more.", metavar="SECTION.FIELD=VALUE,VALUE"
        ),
    ],
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds; each combination is trained with each of them.")] = "42",
    task: Annotated[list[str] | None, typer.Option("--task", help="Task. [default: params.yaml's]")] = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    stop: Annotated[
        bool, typer.Option("--stop/--no-stop", help="Stop trainings whose score stays below the median of the others.")
    ] = True,
    jobs: JobsOption = None,
    ray: RayOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil with every combination of values.

    The best values of each task are written as a recipe.
    """
    output = Output(json, quiet)
    from kdqat_cli.stages.repro import refuse_failures
    from kdqat_cli.stages.sweep import plan_sweep
    from kdqat_cli.stages.sweep import sweep as stage

    refuse_other_version(__version__)
    plan = plan_sweep(name, over, seeds, task or [], recipe, load_params(), teacher)
    with output.board() as board:
        outcome = stage(plan, jobs, ray, stop, board)
    output.rows(outcome.rows)
    for remark in outcome.remarks:
        output.remark(remark)
    if outcome.best is not None:
        output.remark(f"The best values are in {outcome.best}.")
    refuse_failures(outcome.states)
