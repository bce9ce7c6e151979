"""The application, and what all commands share.

Heavy imports stand inside the commands, so that `kdqat --help` and completion answer at once.
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


class _Group(TyperGroup):
    """The commands. Help and usage errors are printable: typer writes UTF-8 where the stream is ASCII."""

    def get_help(self, ctx: Any) -> str:
        """The list of commands."""
        return printable(super().get_help(ctx), sys.stdout)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Reads the options that stand before the command."""
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
    cls=_Group,
    help="Transformer encoders with ternary weights: distil a fine-tuned classifier into {-α, 0, +α}, and pack it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Command(TyperCommand):
    """A command whose usage errors are kdqat's sentences alone."""

    def get_help(self, ctx: Any) -> str:
        """The command's help."""
        return printable(super().get_help(ctx), sys.stdout)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the options."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's
            raise
        except typer.TyperException as error:
            unknown_option = hasattr(error, "possibilities")
            if unknown_option and any(parameter.name == "text" for parameter in self.params):
                error.message += "; put -- before a text that begins with a dash"
            raise


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command whose expected failures become one sentence and an exit code."""
    return _register(function, "")


def training_command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command that continues where it was interrupted."""
    return _register(function, "; the same command continues from the last evaluation")


def _register(function: Callable[..., None], continues: str) -> Callable[..., None]:
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
        except BrokenPipeError as gone:  # whoever read our output has seen enough
            raise typer.Exit(0) from gone
        except KeyboardInterrupt as interrupt:
            terminated = isinstance(interrupt, group.Terminated)
            what = "terminated" if terminated else "interrupted"
            Output(quiet=not group.leads()).remark(what + continues)
            raise typer.Exit(group.STOPPED if terminated else _INTERRUPTED) from interrupt

    return app.command(name=function.__name__.replace("_", "-"), cls=_Command)(guarded)


@contextmanager
def _installed(name: str) -> Iterator[None]:
    """Says which package a command lacks: kdqat-runtime comes without those that only training needs.

    Raises:
        MissingInputError: with the package.
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
    """The function with an option for each field of a parameter that is a group of options (a dataclass)."""
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
    """Output for a command that loads models; the libraries' own remarks are switched off.

    By their environment variables: importing the libraries takes seconds, and options are checked before.
    """
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    if processors() < allowed_processors():  # torch, once imported, would start a thread for each of the latter
        os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    output = Output(as_json, quiet or not group.leads())
    logging.getLogger("kdqat_cli").handlers = [_Remarks(output)]
    return output


@contextmanager
def progress(output: Output, what: str) -> Iterator[Advance]:
    """A function of (step, steps, news) that shows how far `what` is, and writes it as events where they are wanted."""
    from kdqat_cli.store.progress import EventWriter

    with output.progress(what) as show, closing(EventWriter()) as write:

        def advance(step: int, steps: int, news: str) -> None:
            if group.leads():
                write(step, steps, news)
            show(step, steps, news)

        yield advance


class _Remarks(logging.Handler):
    """Makes remarks of what the stages log."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.remark(record.getMessage())
        except ValueError:  # the stream was closed: a remark is no reason to end
            self.handleError(record)


def inputs(task: str, data_dir: str | None) -> tuple[Params, "Task", Path | None]:
    """params.yaml, the task, and the folder of the user's data."""
    from kdqat_cli.tasks.registry import load_task
    from kdqat_cli.tasks.sources import resolve_data_dir

    params = load_params()
    refuse_other_version(params, __version__)
    return params, load_task(task), resolve_data_dir(data_dir, params.data_dir)
