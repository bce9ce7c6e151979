"""Printed output: tables of any width, text with control characters, sentences."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.output import Output, printable
from tests.commands import environment

ROWS = [
    {"task": "rte", "title": "Does a text entail a sentence?", "score": 81.79, "bytes": 123_456_789},
    {"task": "a-long-name", "title": "x " * 60, "score": 7.5, "bytes": 5},
]
_PRINTS = "import json, sys; from kdqat_cli.output import Output; Output().rows(json.loads(sys.argv[1]))"


def on_terminal(columns: int, *command: str, **variables: str) -> str:
    """The output of a command on a terminal with the given number of columns."""
    ours, theirs = pty.openpty()
    os.environ.pop("COLUMNS", None)
    settings = environment(TERM="xterm", **variables)
    sized = f"stty cols {columns} rows 24; exec " + '"$@"'
    process = subprocess.Popen(
        ["bash", "-c", sized, "bash", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=settings
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux reports in this way that there is no writer any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [1, 10, 20, 40, 80, 200])
def test_no_number_is_cut_on_a_narrow_terminal(columns: int) -> None:
    shown = on_terminal(columns, sys.executable, "-c", _PRINTS, json.dumps(ROWS))
    for whole in ("81.79", "123,456,789", "a-long-name", "sentence?"):
        assert whole in shown
    assert "…" not in shown


def test_a_row_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(ROWS, title="a title\x1b[2J")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "a title\\x1b[2J"
    assert "x " * 60 in lines[3]


def test_json_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"folder": ":smile:/[red]a[/]\tb\x1b[31m\x7f\x9b", "long": "word " * 100}
    Output(as_json=True).result(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert ":smile:" in printed
    assert not {"\x1b", "\x7f", "\x9b"} & set(printed)


def test_a_table_shows_text_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    Output().result({"folder": ":smile:/[red]a[/]\tb\x1b[31m\nnext"})
    assert capsys.readouterr().out.strip() == "folder  :smile:/[red]a[/]\\tb\\x1b[31m\\nnext"


def test_sentences_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    from kdqat_cli.errors import ConfigError

    Output().error(ConfigError("bad \x1b]0;title\x07 [bold]:smile:\r\nsecond", "mend \x9b2J"))
    Output().remark("note \x1b[2J")
    with Output().progress("teacher \x1b[1m") as advance:
        advance(1, 2, "news \x1b[2J")
    said = capsys.readouterr().err
    assert said == (
        "error: bad \\x1b]0;title\\x07 [bold]:smile:\\x0d\nsecond\ntry:   mend \\x9b2J\nnote \\x1b[2J\n"
        "teacher \\x1b[1m: step 1 of 2, news \\x1b[2J\n"
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "β😀\\udcff"), ("ascii", "\\u03b2\\U0001f600\\udcff"), ("cp1253", "β\\U0001f600\\udcff")],
)
def test_characters_that_an_encoding_lacks_are_escaped(encoding: str, shown: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    assert printable("β😀\udcff", stream) == shown


_PROGRESS = (
    "from kdqat_cli.output import Output\n"
    "with Output().progress('student movie map+output 42') as advance:\n"
    "    [advance(step, 1234, f'dev score {step}.25') for step in range(1, 1235, 137)]\n"
)


@pytest.mark.parametrize(
    ("columns", "variables"),
    [(20, {}), (59, {}), (80, {"TERM": "dumb"}), (80, {"TERM": ""}), (80, {"FORCE_COLOR": "1", "TERM": "unknown"})],
)
def test_a_terminal_that_cannot_show_a_bar_gets_lines(columns: int, variables: dict[str, Any]) -> None:
    shown = on_terminal(
        columns, "env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-c", _PROGRESS
    )
    assert "student movie map+output 42: step 1097 of 1234, " in shown
    assert "\x1b[" not in shown


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_has_whole_numbers(columns: int) -> None:
    shown = on_terminal(columns, sys.executable, "-c", _PROGRESS)
    assert "1234/1234" in shown
    assert "1234.25" in shown
    assert "…" not in shown


def test_forced_colours_make_no_bar_in_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRESS], env=environment(FORCE_COLOR="1"), capture_output=True, text=True, check=True
    )
    assert "student movie map+output 42: step 1 of 1234, dev score 1.25\n" in done.stderr
    assert "\x1b[?25l" not in done.stderr
