"""The application, and what all commands share.

Heavy imports stand inside the commands, so that `kdqat --help` and completion answer at once.
"""

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from kdqat_cli import group
from kdqat_cli.config import Params, load_params
from kdqat_cli.errors import KdqatError
from kdqat_cli.output import Output

app = typer.Typer(
    name="kdqat",
    help="Transformer encoders with ternary weights: distil a fine-tuned classifier into {-α, 0, +α}, and pack it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command whose expected failures become one sentence and an exit code."""

    @functools.wraps(function)
    def guarded(**options: Any) -> None:
        from kdqat_cli.stages.folder import enough_room

        try:
            with enough_room(Path.cwd()):
                function(**options)
        except KdqatError as error:
            speaks, code = group.fail(error.exit_code)
            if speaks:
                Output().error(error)
            raise typer.Exit(code) from error
        except BrokenPipeError as gone:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from gone
        except KeyboardInterrupt as interrupt:
            Output(quiet=not group.leads()).remark("interrupted; the same command continues from the last evaluation")
            raise typer.Exit(130) from interrupt

    return app.command(name=function.__name__.replace("_", "-"))(guarded)


def start(as_json: bool, quiet: bool) -> Output:
    """Output for a command that loads models; the libraries' own remarks are switched off."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    output = Output(as_json, quiet or not group.leads())
    logging.getLogger("kdqat_cli").handlers = [_Remarks(output)]
    return output


class _Remarks(logging.Handler):
    """Makes remarks of what the stages log."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        self.output.remark(record.getMessage())


def inputs(task: str, data_dir: str | None) -> tuple[Params, Any, Path | None]:
    """params.yaml, the task, and the folder of the user's data."""
    from kdqat_cli.tasks.data import resolve_data_dir
    from kdqat_cli.tasks.registry import load_task

    params = load_params()
    return params, load_task(task), resolve_data_dir(data_dir, params.data_dir)
