"""The application, and the common parts of all commands.

Modules that take long to import are imported inside the commands, so that `kdqat --help` and completion answer at once.
"""

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from kdqat_cli import __version__, group
from kdqat_cli.commands.panels import write_commands, write_options
from kdqat_cli.config import Params
from kdqat_cli.errors import KdqatError, MissingInputError
from kdqat_cli.output import Advance, Output, printable
from kdqat_cli.params import load_params, refuse_other_version
from kdqat_cli.processors import allowed_processors, processors

if TYPE_CHECKING:
    from kdqat_cli.tasks.task import Task

_QUIET_LIBRARIES = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_INTERRUPTED = 130


class _CommandGroup(TyperGroup):
    """The commands. Help and usage errors are made printable, because typer writes UTF-8 even to an ASCII stream."""

    def get_help(self, ctx: Any) -> str:
        """The list of commands."""
        return printable(super().get_help(ctx), sys.stdout)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands in panels."""
        write_commands(self, ctx, formatter)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Reads the options before the command."""
        with _printable_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Reads the command and its options, and runs it."""
        with _printable_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        error.message = printable(error.message, sys.stderr)
        raise


app = typer.Typer(
    name="kdqat",
    cls=_CommandGroup,
    help="Make trained models small: train a quantised student that follows its teacher, and store it packed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Command(TyperCommand):
    """A command whose usage errors are only kdqat's sentences, without pydantic's prefix."""

    def get_help(self, ctx: Any) -> str:
        """The command's help."""
        return printable(super().get_help(ctx), sys.stdout)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options, in panels if there are many."""
        write_options(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the options."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # the prefix of pydantic
            raise
        except typer.TyperException as error:
            unknown_option = hasattr(error, "possibilities")
            if unknown_option and any(parameter.name == "text" for parameter in self.params):
                error.message += "; put -- before a text that begins with a dash"
            raise


def command(panel: str, continues: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command. An expected failure ends it with one sentence and an exit code.

    Args:
        panel: its panel in the list of commands (panels.py).
        continues: what an interrupted command says of its repetition.
    """
    return functools.partial(_register, panel, continues)


def training_command(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command that, when it is repeated, continues from where it was interrupted."""
    return command(panel, "; the same command continues from the last evaluation")


def _register(panel: str, continues: str, function: Callable[..., None]) -> Callable[..., None]:
    function = _with_groups(function)

    @functools.wraps(function)
    def guarded(**options: object) -> None:
        from kdqat_cli.store.writing import file_errors

        try:
            with file_errors(), _installed(function.__name__):
                function(**options)
        except KdqatError as error:
            speaks, code = group.fail(error.exit_code)
            if speaks:
                Output().error(error)
            raise typer.Exit(code) from error
        except BrokenPipeError as gone:  # the reader has closed the output, for example `head`
            raise typer.Exit(0) from gone
        except KeyboardInterrupt as interrupt:
            terminated = isinstance(interrupt, group.Terminated)
            what = "terminated" if terminated else "interrupted"
            Output(quiet=not group.leads()).remark(what + continues)
            raise typer.Exit(group.STOPPED if terminated else _INTERRUPTED) from interrupt

    name = function.__name__.replace("_", "-")
    return app.command(name=name, cls=_Command, rich_help_panel=panel)(guarded)


@contextmanager
def _installed(name: str) -> Iterator[None]:
    """Turns a missing package into one sentence: kdqat-runtime does not install the packages that only training needs.

    Raises:
        MissingInputError: a package is missing; the message names it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "kdqat_cli"):
            raise
        command = name.replace("_", "-")
        raise MissingInputError(
            f"kdqat {command} needs {package}, which is not installed here.", "pip install kdqat"
        ) from error


def _with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """The function, with one option per field in place of each parameter that is a group of options (a dataclass)."""
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if not is_dataclass(hints[name]):
            options.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = hints[name]
        own = get_type_hints(hints[name], include_extras=True)
        for field in fields(hints[name]):
            kind = inspect.Parameter.KEYWORD_ONLY
            options.append(inspect.Parameter(field.name, kind, default=field.default, annotation=own[field.name]))

    def grouped(**given: object) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        function(**given, **made)

    grouped.__name__, grouped.__doc__, grouped.__module__ = function.__name__, function.__doc__, function.__module__
    grouped.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    grouped.__annotations__ = {option.name: option.annotation for option in options}
    return grouped


def start(as_json: bool, quiet: bool) -> Output:
    """The output of a command that loads models; it also switches off the libraries' own messages.

    Environment variables do this, because importing the libraries takes seconds, and the options are checked first.
    """
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    if processors() < allowed_processors():  # without the variable, torch starts a thread for each allowed processor
        os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    output = Output(as_json, quiet or not group.leads())
    logging.getLogger("kdqat_cli").handlers = [_Remarks(output)]
    return output


@contextmanager
def progress(output: Output, what: str) -> Iterator[Advance]:
    """Gives a function of (step, steps, news) that shows the progress of `what`.

    If KDQAT_PROGRESS names a file, it also writes each step there as an event (store/progress.py).
    """
    from kdqat_cli.store.progress import EventWriter

    with output.progress(what) as show, closing(EventWriter()) as write:

        def advance(step: int, steps: int, news: str) -> None:
            if group.leads():
                write(step, steps, news)
            show(step, steps, news)

        yield advance


class _Remarks(logging.Handler):
    """Shows the warnings that the stages log as remarks."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.remark(record.getMessage())
        except ValueError:  # the stream is closed; the command continues without the remark
            self.handleError(record)


def inputs(task: str, data_dir: str | None) -> tuple[Params, "Task", Path | None]:
    """Returns params.yaml, the task, and the folder of the user's data."""
    from kdqat_cli.tasks.registry import load_task
    from kdqat_cli.tasks.sources import resolve_data_dir

    params = load_params()
    refuse_other_version(__version__)
    return params, load_task(task), resolve_data_dir(data_dir, params.data_dir)
