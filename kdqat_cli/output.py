"""The only place that prints: data to stdout, everything else to stderr."""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kdqat_cli.errors import KdqatError

_PLAIN_INTERVAL = 15.0  # seconds between two progress lines where there is no terminal

_PIPED_WIDTH = 250  # columns of a table in a file or pipe, where rich would assume 80 and break rows

Advance = Callable[[int, int, str], None]
"""Takes the step, the number of steps, and what is new (or nothing)."""


class Output:
    """Prints results and progress in the way that was asked for."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        """Sets the way.

        Args:
            as_json: results as one JSON value on stdout.
            quiet: no progress and no remarks.
        """
        self.as_json = as_json
        self.quiet = quiet
        self.stdout = Console(soft_wrap=True)
        if not self.stdout.is_terminal:
            self.stdout = Console(soft_wrap=True, width=_PIPED_WIDTH)
        self.stderr = Console(stderr=True, soft_wrap=True)

    def result(self, values: Mapping[str, Any]) -> None:
        """One result of named values."""
        if self.as_json:
            self._json(values)
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in values.items():
            table.add_row(name.replace("_", " "), escape(_text(value)))
        self.stdout.print(table)

    def rows(self, rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
        """A table; its columns are the rows' keys."""
        if self.as_json:
            self._json(rows)
            return
        table = Table(title=title, box=None, pad_edge=False, title_justify="left")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        numeric = {key for key in columns if all(isinstance(row.get(key), int | float | None) for row in rows)}
        for key in columns:
            table.add_column(key, justify="right" if key in numeric else "left")
        for row in rows:
            table.add_row(*(escape(_text(row.get(key))) for key in columns))
        self.stdout.print(table)

    def line(self, value: Mapping[str, Any]) -> None:
        """One JSON value on a line of its own, at once: for a pipe."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def changes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The stages of a pipeline; for people only those that something happened to, and what matters of them."""
        if self.as_json:
            self._json(rows)
            return
        shown = [row for row in rows if row["state"] != "unchanged"]
        if shown:
            columns = [name for name in ("stage", "state", "seconds", "why") if name in shown[0]]
            self.rows([{name: row[name] for name in columns} for row in shown])
        self.remark(f"{len(rows) - len(shown)} of {len(rows)} stages unchanged.")

    def text(self, text: str) -> None:
        """Text as it is, to stdout."""
        self.stdout.print(text, markup=False, highlight=False)

    def remark(self, sentence: str) -> None:
        """A sentence beside the result, to stderr."""
        if not self.quiet:
            self.stderr.print(sentence, markup=False, highlight=False)

    def error(self, error: KdqatError) -> None:
        """A failure and the command that mends it."""
        self.stderr.print(f"[bold red]error:[/] {escape(error.sentence)}", highlight=False)
        if error.fix:
            self.stderr.print(f"[bold]try:[/]   {escape(error.fix)}", highlight=False)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A function of (step, steps, news) that shows how far `what` is."""
        if self.quiet:
            yield lambda step, total, news: None
        elif self.stderr.is_terminal:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[news]}"),
                console=self.stderr,
            ) as bar:
                task = bar.add_task(what, total=None, news="")

                def advance(step: int, total: int, news: str) -> None:
                    bar.update(task, completed=step, total=total)
                    if news:
                        bar.update(task, news=news)

                yield advance
        else:
            yield _PlainProgress(what, self.remark)

    @contextmanager
    def board(self) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
        """A function of rows (stage, state, step, steps, news, why, seconds, log) that shows how far each is."""
        if self.quiet:
            yield lambda rows: None
        elif self.stderr.is_terminal:
            with Live(console=self.stderr, refresh_per_second=4) as live:
                yield lambda rows: live.update(_board(rows))
        else:
            yield _PlainBoard(self.remark)

    def _json(self, value: Any) -> None:
        self.stdout.print(
            json.dumps(value, ensure_ascii=False, indent=2), markup=False, highlight=False, soft_wrap=True
        )


class _PlainProgress:
    """Lines for a log file: at news, and now and then."""

    def __init__(self, what: str, say: Any) -> None:
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


_PROGRESS = re.compile(r": step (\d+) of (\d+)(?:, [\d.]+ min left)?(?:, (.*))?$", re.MULTILINE)


def progress_lines(text: str) -> list[tuple[int, int, str]]:
    """(step, steps, news) of every plain progress line in a log."""
    return [(int(step), int(steps), news) for step, steps, news in _PROGRESS.findall(text)]


class _PlainBoard:
    """Lines for a log file: whenever a stage changes its state or has news."""

    def __init__(self, say: Any) -> None:
        self.say = say
        self.known: dict[str, tuple[Any, Any]] = {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            state, news = row["state"], row["news"]
            before, old = self.known.get(row["stage"], ("waiting", ""))
            self.known[row["stage"]] = state, news
            if state != before:
                told = [row["why"] if state != "done" else None, row["log"] if state in ("running", "failed") else None]
                self.say(f"{row['stage']}: " + ", ".join([state, *filter(None, told)]))
            elif news != old and state == "running":
                self.say(f"{row['stage']}: step {row['step']} of {row['steps']}, {news}")


def _board(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What runs and what failed, a row each; the rest as numbers below."""
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
            table.add_row(escape(row["stage"]), row["state"], step, elapsed, escape(news or ""))
    return table


def _text(value: Any) -> str:
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
