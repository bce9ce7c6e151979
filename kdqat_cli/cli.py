"""The entry point `kdqat`."""

import sys
import traceback
from typing import Annotated

import typer

from kdqat_cli import __version__, group, streams
from kdqat_cli.commands.app import app as app
from kdqat_cli.errors import KdqatError
from kdqat_cli.output import Output

# isort: off
# Importing a module registers its commands; `kdqat --help` lists them in this order.
from kdqat_cli.commands import projects  # noqa: F401
from kdqat_cli.commands import training  # noqa: F401
from kdqat_cli.commands import models  # noqa: F401
from kdqat_cli.commands import analysis  # noqa: F401
from kdqat_cli.commands import pipeline  # noqa: F401
from kdqat_cli.commands import configuration  # noqa: F401
from kdqat_cli.commands import upkeep  # noqa: F401
# isort: on


def _version(wanted: bool) -> None:
    if wanted:
        Output().text(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point."""
    streams.guard()
    group.heed_sigterm()
    try:
        app()
    except KdqatError as error:  # an error while the help is printed, outside any command
        Output().error(error)
        sys.exit(error.exit_code)
    except Exception:
        speaks, code = group.fail(1, sure=False)
        if speaks:
            Output().remark(f"This is a bug in kdqat {__version__}; please report it with the lines below.")
            Output().remark(traceback.format_exc())
        sys.exit(code)
