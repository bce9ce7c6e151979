"""Commands on the installation and the working folder: env, clean."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kdqat_cli.commands.app import command, start
from kdqat_cli.commands.options import JsonOption, QuietOption
from kdqat_cli.commands.panels import UPKEEP
from kdqat_cli.errors import ConfigError
from kdqat_cli.output import Output
from kdqat_cli.params import load_params


@command(UPKEEP)
def env(json: JsonOption = False) -> None:
    """Show the environment that kdqat runs in.

    That is versions, processor and kernel, threads and limits of the control group, GPUs, caches and data.
    """
    params = load_params()
    output = start(json, False)
    from kdqat_cli.stages.env import env as stage

    found = stage(params)
    if json:
        output.result(found)
        return
    for section, values in found.items():
        output.rows([{section: name, "": _shown(value)} for name, value in values.items()])


def _shown(value: Any) -> Any:
    """A value in readable form: bytes as megabytes, lists in one line."""
    if isinstance(value, dict):
        return f"{value['path']}, {value['bytes'] / 1e6:,.1f} MB"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return value


@command(UPKEEP)
def clean(
    folder: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders to search. [default: runs/, sweeps/ and metrics/]"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Kind of leftover; repeat for more.", metavar="<checkpoints|scratch|partial>"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it nothing is removed.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List what interrupted commands left, or remove it.

    Files are removed only with --yes. Finished results, and folders that a command is using, are never touched. An
    interrupted training cannot continue without its checkpoints.
    """
    output = Output(json, quiet)
    from kdqat_cli.stages.clean import KINDS, leftovers
    from kdqat_cli.stages.clean import clean as stage

    unknown = [name for name in only or [] if name not in KINDS]
    if unknown:
        raise ConfigError(f"--only: there is no kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}.")
    kinds = tuple(kind for kind in KINDS if not only or kind in only)
    found = leftovers(folder or [], kinds)
    shown = stage(found, output.remark) if yes else found
    if shown or json:
        output.rows([{"what": one.what, "path": str(one.path), "MB": one.bytes / 1e6} for one in shown])
    size = sum(one.bytes for one in shown) / 1e6
    if yes:
        output.remark(f"{len(shown)} leftovers removed, {size:,.1f} MB.")
    elif found:
        output.remark(f"{len(found)} leftovers, {size:,.1f} MB; nothing was removed. `kdqat clean --yes` removes them.")
    else:
        output.remark("Nothing is left behind.")
