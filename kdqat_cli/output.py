"""The only module that prints: data to stdout, everything else to stderr.

Data (JSON, a recipe) is written without markup, colours or wrapping. Tables and sentences may quote files, so control
characters, which a terminal would obey, are written as escapes (`printable`).
"""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO, TypedDict

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from kdqat_cli.errors import KdqatError
from kdqat_cli.streams import encoding_of, reader_gone

_PLAIN_INTERVAL = 15.0  # seconds between two progress lines without a terminal
_LIVE_WIDTH = 60  # columns that a terminal must have for a progress bar; a narrower one gets lines
_UNBOUNDED = 100_000  # columns in which any table fits
_DUMB = ("", "dumb", "unknown")  # values of TERM for terminals that cannot move their cursor

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 (but for tab and line feed), delete, C1
_UNESCAPED_BY_JSON = re.compile(r"[\x7f-\x9f]")

Advance = Callable[[int, int, str], None]
"""Takes the step, the number of steps, and news (may be empty)."""


class StageRow(TypedDict):
    """The progress of a stage of a pipeline."""

    stage: str
    """Address of the stage in DVC."""
    state: str
    """`waiting`, `running`, `done`, `restored`, `unchanged`, `failed`, `skipped` or `stopped`."""
    why: str | None
    """Reason why it ran, or did not run."""
    seconds: float | None
    """Time that it has been running, or ran."""
    step: int
    """Step of a training."""
    steps: int
    """Number of steps of a training; 0: no steps."""
    news: str | None
    """The last news of the training."""
    log: str | None
    """Path of the file with the output of its commands."""


Board = Callable[[Sequence[StageRow]], None]
"""Called at intervals with one row per stage."""


class Output:
    """Prints results and progress."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        """Sets how to print.

        Args:
            as_json: print results as one JSON value on stdout.
            quiet: print no progress and no remarks.
        """
        self.as_json = as_json
        self.quiet = quiet
        self.stderr = _console(sys.stderr)

    def result(self, values: Mapping[str, object]) -> None:
        """Prints one result of named values."""
        if self.as_json:
            self._json(values)
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        names = [_cell(name.replace("_", " ")) for name in values]
        _fill(table, [("", names), ("", [_cell(value) for value in values.values()])])
        _print_table(table)

    def rows(self, rows: Sequence[Mapping[str, object]], title: str | None = None) -> None:
        """Prints a table; its columns are the keys of the rows."""
        if self.as_json:
            self._json(rows)
            return
        table = Table(box=None, pad_edge=False)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        numeric = {key for key in columns if all(isinstance(row.get(key), int | float | None) for row in rows)}
        _fill(table, [(key, [_cell(row.get(key)) for row in rows]) for key in columns], numeric)
        if title:
            _write(printable(title, sys.stdout) + "\n")
        _print_table(table)

    def line(self, value: Mapping[str, object]) -> None:
        """Prints one JSON value on its own line at once, for a pipe.

        Raises:
            BrokenPipeError: the reader is gone, so no more lines are needed.
        """
        _write(_json_text(value) + "\n")
        if reader_gone():
            raise BrokenPipeError

    def changes(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Prints the stages of a pipeline; without JSON, only the stages that changed, with the main columns."""
        if self.as_json:
            self._json(rows)
            return
        shown = [row for row in rows if row["state"] != "unchanged"]
        if shown:
            columns = [name for name in ("stage", "state", "seconds", "why") if name in shown[0]]
            self.rows([{name: row[name] for name in columns} for row in shown])
        self.remark(f"{len(rows) - len(shown)} of {len(rows)} stages unchanged.")

    def text(self, text: str) -> None:
        """Prints text: unchanged in UTF-8 to a file or pipe, without control characters to a terminal."""
        whole = text if text.endswith("\n") else f"{text}\n"
        if sys.stdout.isatty():
            _write(printable(whole, sys.stdout))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(whole.encode())
            sys.stdout.buffer.flush()

    def remark(self, sentence: str) -> None:
        """Prints a sentence to stderr."""
        if not self.quiet:
            self.stderr.print(printable(sentence, sys.stderr))

    def error(self, error: KdqatError) -> None:
        """Prints a failure and the command that fixes it."""
        self.stderr.print(Text.assemble(("error:", "bold red"), " ", printable(error.sentence, sys.stderr)))
        if error.fix:
            self.stderr.print(Text.assemble(("try:", "bold"), "   ", printable(error.fix, sys.stderr)))

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """Gives a function of (step, steps, news) that shows the progress of `what`."""
        if self.quiet:
            yield lambda step, total, news: None
        elif self._moves_cursor():
            with Progress(
                TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
                BarColumn(bar_width=None),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[news]}", markup=False, table_column=Column(overflow="fold")),
                console=self.stderr,
            ) as bar:
                task = bar.add_task(printable(what, sys.stderr), total=None, news="")

                def advance(step: int, total: int, news: str) -> None:
                    bar.update(task, completed=step, total=total)
                    if news:
                        bar.update(task, news=printable(news, sys.stderr))

                yield advance
        else:
            yield _PlainProgress(what, self.remark)

    @contextmanager
    def board(self) -> Iterator[Board]:
        """Gives a function of rows that shows the progress of each stage."""
        if self.quiet:
            yield lambda rows: None
        elif self._moves_cursor():
            with Live(console=self.stderr, refresh_per_second=4) as live:
                yield lambda rows: live.update(_board(rows))
        else:
            yield _PlainBoard(self.remark)

    def _json(self, value: object) -> None:
        _write(_json_text(value, indent=2) + "\n")

    def _moves_cursor(self) -> bool:
        """Whether stderr is a terminal that can show a progress bar; forced colours do not count."""
        able = os.environ.get("TERM", "").lower() not in _DUMB
        return sys.stderr.isatty() and able and self.stderr.width >= _LIVE_WIDTH


def printable(text: str, stream: TextIO) -> str:
    """Text that is safe to print.

    Args:
        text: the text, which may quote a file.
        stream: the stream that it is printed to.

    Returns:
        The text with backslash escapes for control characters, which a terminal would obey, and for characters that the
        encoding of the stream does not have; tabs and line feeds stay.
    """
    escaped = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    encoding = encoding_of(stream)
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _console(stream: TextIO, width: int | None = None) -> Console:
    return Console(file=stream, width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _json_text(value: object, indent: int | None = None) -> str:
    """JSON text that is safe for terminals and fits the encoding of stdout."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    text = _UNESCAPED_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding_of(sys.stdout))
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def _cell(value: object) -> Text:
    """A value as one line of a table."""
    text = _text(value).replace("\n", "\\n").replace("\t", "\\t")
    return Text(printable(text, sys.stdout))


def _fill(table: Table, columns: Sequence[tuple[str, Sequence[Text]]], numeric: Collection[str] = ()) -> None:
    """Adds columns to a table, each with a header and cells, and at least as wide as its longest word."""
    for key, cells in columns:
        header = _cell(key)
        longest = max(cell_len(word) for cell in (header, *cells) for word in cell.plain.split(" "))
        table.add_column(
            header, justify="right" if key in numeric else "left", no_wrap=key in numeric, min_width=longest
        )
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)


def _print_table(table: Table) -> None:
    """Prints a table: one line per row to a file or pipe, wrapped between words on a terminal.

    If a terminal is still too narrow, it breaks the lines itself. No number and no word is ever cut off.
    """
    needed = _console(sys.stdout, _UNBOUNDED).measure(table)
    width = max(_console(sys.stdout).width, needed.minimum) if sys.stdout.isatty() else needed.maximum
    _console(sys.stdout, width).print(table)


class _PlainProgress:
    """Prints progress as lines for a log file: for news, and at intervals."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self.what = what
        self.say = say
        self.last = time.monotonic()
        self.first: tuple[int, float] | None = None  # a resumed training does not begin at step 0

    def __call__(self, step: int, total: int, news: str) -> None:
        now = time.monotonic()
        self.first = self.first or (step, now)
        if news or now - self.last >= _PLAIN_INTERVAL:
            self.last = now
            done, elapsed = step - self.first[0], now - self.first[1]
            left = f"{(total - step) * elapsed / done / 60:.1f} min left" if done > 0 and step < total else ""
            self.say(", ".join(part for part in (f"{self.what}: step {step} of {total}", left, news) if part))


class _PlainBoard:
    """Prints lines for a log file whenever a stage changes its state or has news."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.known: dict[str, tuple[str, str | None]] = {}

    def __call__(self, rows: Sequence[StageRow]) -> None:
        for row in rows:
            state, news = row["state"], row["news"]
            before, old = self.known.get(row["stage"], ("waiting", ""))
            self.known[row["stage"]] = state, news
            if state != before:
                told = [row["why"] if state != "done" else None, row["log"] if state in ("running", "failed") else None]
                self.say(f"{row['stage']}: " + ", ".join([state, *filter(None, told)]))
            elif news != old and state == "running":
                self.say(f"{row['stage']}: step {row['step']} of {row['steps']}, {news}")


def _board(rows: Sequence[StageRow]) -> Table:
    """A table with one row per running or failed stage, and the number of stages in each state."""
    states = Counter(row["state"] for row in rows)
    caption = ", ".join(f"{number} {state}" for state, number in states.items())
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in ("stage", "state", "step", "time"):
        table.add_column(column, justify="left" if column in ("stage", "state") else "right")
    table.add_column("news", ratio=1)
    for row in rows:
        if row["state"] in ("running", "failed", "stopped"):
            step = f"{row['step']}/{row['steps']}" if row["steps"] else ""
            elapsed = "" if row["seconds"] is None else str(timedelta(seconds=int(row["seconds"])))
            news = row["news"] if row["state"] == "running" else row["why"]
            table.add_row(_shown(row["stage"]), row["state"], step, elapsed, _shown(news or ""))
    return table


def _shown(text: str) -> RenderableType:
    return Text(printable(text, sys.stderr))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    if isinstance(value, Mapping):
        value = (f"{name} {_text(part)}" for name, part in value.items())
    return ", ".join(map(str, value))
