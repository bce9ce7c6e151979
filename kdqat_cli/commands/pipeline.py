"""Commands over many runs: report."""

from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli.commands.app import command
from kdqat_cli.commands.options import JsonOption
from kdqat_cli.config import Params, field_help, load_params
from kdqat_cli.output import Output


@command
def report(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write as well: .md (the table), .csv or .json (every seed).")
    ] = None,
    published: Annotated[str | None, typer.Option("--published", help=field_help(Params, "published"))] = None,
    json: JsonOption = False,
) -> None:
    """Show what the pipeline has measured: mean and spread over seeds, sizes, times, and what is missing."""
    from kdqat_cli.stages.report import report as stage
    from kdqat_cli.stages.report import write_report

    groups = stage(published or load_params().published)
    if out is not None:
        write_report(groups, out)
    if json:
        Output(json).rows([group.record() for group in groups])
    else:
        Output().rows([group.row() for group in groups])
