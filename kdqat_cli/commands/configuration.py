"""Commands that only read the configuration: ls, recipe, validate."""

from typing import Annotated, get_args

import typer

from kdqat_cli.commands.app import command
from kdqat_cli.commands.options import JsonOption
from kdqat_cli.commands.panels import UPKEEP
from kdqat_cli.output import Output
from kdqat_cli.params import read_recipe, use_plugins
from kdqat_cli.store.places import Listed


@command(UPKEEP)
def ls(
    what: Annotated[Listed, typer.Argument(help=f"What to list: {', '.join(get_args(Listed))}.", show_choices=False)],
    json: JsonOption = False,
) -> None:
    """List what kdqat knows."""
    from kdqat_cli.stages.ls import ls as stage

    use_plugins()
    Output(json).rows(stage(what))


@command(UPKEEP)
def recipe(
    name: Annotated[str, typer.Argument(help="Name of a packaged recipe, or the path of a recipe file.")] = "clean",
) -> None:
    """Print a recipe, to copy and edit.

    For example: `kdqat recipe clean > mine.yaml`.
    """
    Output().text(read_recipe(name))


@command(UPKEEP)
def validate(
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Check this recipe as well.")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write the modules of kdqat that the stages depend on into dvc.yaml.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check params.yaml, dvc.yaml, the recipe and the tasks.

    All errors are reported at once.
    """
    from kdqat_cli.stages.validate import validate as stage

    Output(json).result(stage(recipe or [], fix))
