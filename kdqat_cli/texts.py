"""Reads texts from the lines of a file, or of a pipe as they arrive.

A line ends with a line feed, or with a carriage return and a line feed. It is a text, two texts with a tab between
them, or a JSON object with `text` and perhaps `pair`. Empty lines are texts too, so that answer n belongs to line n. An
invalid line is refused with its number, after the lines before it have been yielded.
"""

import json
import os
import re
import select
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.files import POINTER, encoding_of, not_utf8

LONGEST_LINE = 2**24
"""Largest number of characters of a line, and of a cell of a data file."""
_READ = 2**16  # bytes per read
_HELD = 2**22  # bytes of lines in one batch, except for a single longer line
_BOM = b"\xef\xbb\xbf"
_ARRAY = re.compile(r"\s*\[\s*(\{|$)")  # the beginning of a JSON array of objects
_LINES = 'a file of lines: a text, two texts with a tab between them, or a JSON object {"text": …, "pair": …}'
_HEADERS = {
    "text",
    "text1",
    "text2",
    "pair",
    "sentence",
    "sentence1",
    "sentence2",
    "question",
    "question1",
    "question2",
}
_HEADERS |= {"premise", "hypothesis", "document", "title", "body", "review", "label", "id", "idx", "index"}


class Text(NamedTuple):
    """A text or a pair of texts to classify."""

    text: str
    pair: str | None = None


def require_fit(text: Text, pairs: bool | None, place: str) -> Text:
    """Returns the text if the model can classify it.

    Args:
        text: a text, or a pair.
        pairs: whether the model was trained on pairs; None: unknown.
        place: the name of the text in errors.

    Raises:
        ConfigError: a pair is given to a model of single texts, a single text to a model of pairs, or the Unicode is
            invalid.
    """
    if pairs is not None and pairs != (text.pair is not None):
        given, wanted = ("a pair", "single texts") if pairs is False else ("a single text", "pairs of texts")
        raise ConfigError(
            f"{place} is {given}, but the model was trained on {wanted}.",
            'kdqat predict MODEL "A text." "Its second text."' if pairs else 'kdqat predict MODEL "A text."',
        )
    try:
        (text.text + (text.pair or "")).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{place} is not valid Unicode: it has half of a surrogate pair, or an invalid byte.",
            "the text without that character",
        ) from error
    return text


@contextmanager
def open_source(file: Path | None) -> Iterator[int]:
    """The descriptor of a file; None: of standard input.

    Raises:
        MissingInputError: there is no such file, or it cannot be read.
        ConfigError: the file is a table.
    """
    if file is None:
        yield sys.stdin.fileno()
        return
    if file.suffix.lower() == ".csv":
        raise ConfigError(
            f"{file} is a table with a header and quoted cells, but --file takes lines.", f"--out ANSWERS; or {_LINES}"
        )
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise MissingInputError(f"The file {file} cannot be read: {error.strerror}.", "--file FILE") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_texts(descriptor: int, file: Path | None, batch_size: int, pairs: bool | None) -> Iterator[list[Text]]:
    """Yields batches of texts; a batch never waits for lines that have not arrived.

    Args:
        descriptor: a file or a pipe.
        file: its name; None: standard input.
        batch_size: largest number of texts of a batch.
        pairs: whether the model was trained on pairs; None: unknown.

    Raises:
        ConfigError: the model cannot classify a line, or a line begins with a brace and is not a valid JSON object.
        MissingInputError: a line is not UTF-8 or too long, or the file is a pointer of Git LFS.
    """
    number, where = 0, str(file or "standard input")
    for lines in _arriving(descriptor, where, batch_size):
        batch: list[Text] = []
        wrong: KdqatError | None = None
        for line in lines:
            number += 1
            place = f"{where}, line {number}"
            try:
                text = _text(_decoded(line, number, file), place)
                if number == 1:
                    _refuse_whole(text, where)
                batch.append(require_fit(text, pairs, place))
            except KdqatError as error:
                wrong = error
                break
        if batch:
            yield batch
        if wrong:
            raise wrong


def _arriving(descriptor: int, where: str, most: int) -> Iterator[list[bytes]]:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    lines: deque[bytes] = deque()
    rest, held, ended = [b""], 0, False  # the parts of an incomplete line; the bytes of `lines`
    while not ended or lines:
        while not ended and len(lines) < most and held < _HELD and (not lines or poll.poll(0)):
            try:
                chunk = os.read(descriptor, _READ)
            except OSError as error:
                raise MissingInputError(f"{where} cannot be read: {error.strerror}.") from error
            ended = not chunk
            first, *others = chunk.split(b"\n")
            rest.append(first)
            # Do not keep a line without an end that is already too long.
            endless = not others and sum(map(len, rest)) > 4 * LONGEST_LINE
            if others or endless or (ended and any(rest)):
                lines += [b"".join(rest), *others[:-1]]
                held = sum(map(len, lines))
                rest = others[-1:]
        batch: list[bytes] = []
        while lines and len(batch) < most and (not batch or sum(map(len, batch)) + len(lines[0]) <= _HELD):
            batch.append(lines.popleft())
        held -= sum(map(len, batch))
        if batch:
            yield batch


def _decoded(line: bytes, number: int, file: Path | None) -> str:
    """The characters of a line without its end; `number` is counted from 1."""
    start = line[:4] if number == 1 else b""  # the first bytes show the kind of the file
    try:
        text = line.removeprefix(_BOM if number == 1 else b"").decode() if len(line) <= 4 * LONGEST_LINE else ""
        if encoding_of(start):
            raise MissingInputError(*not_utf8(file, start))
    except UnicodeDecodeError as error:
        raise MissingInputError(*not_utf8(file, start, number)) from error
    if len(text) > LONGEST_LINE or len(line) > 4 * LONGEST_LINE:
        place = f"{file or 'standard input'}, line {number}"
        raise MissingInputError(f"{place} has more than {LONGEST_LINE:,} characters.", "shorter texts")
    return text.removesuffix("\r")


def _text(text: str, place: str) -> Text:
    if text.lstrip(" ").startswith("{"):
        return _object(text, place)
    cells = text.split("\t")
    if len(cells) > 2:
        raise ConfigError(f"{place} has {len(cells)} cells, but a line is one text, or two with a tab between.", _LINES)
    return Text(*cells)


def _object(line: str, place: str) -> Text:
    try:
        value = json.loads(line, object_pairs_hook=_once)
        row = Text(value["text"], value.get("pair"))
    except _TwiceError as error:
        raise ConfigError(
            f"{place}: the key {error} occurs twice in the JSON object.", "one of them removed"
        ) from error
    except KeyError as error:
        fix = '{"text": …}, or {"text": …, "pair": …}'
        raise ConfigError(f'{place}: the JSON object has no "text".', fix) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place} begins with a brace, but is not a JSON object.", 'a text that begins with one as {"text": "{…"}'
        ) from error
    if not isinstance(row.text, str) or not isinstance(row.pair, str | None):
        raise ConfigError(f"{place}: text and pair must be strings.", '{"text": "…"}, or {"text": "…", "pair": "…"}')
    return row


class _TwiceError(Exception):
    """A key that occurs twice, in JSON form."""


def _once(items: Iterable[tuple[str, object]]) -> dict[str, object]:
    value: dict[str, object] = {}
    for key, part in items:
        if key in value:
            raise _TwiceError(json.dumps(key))
        value[key] = part
    return value


def _refuse_whole(first: Text, where: str) -> None:
    """Refuses a table or a JSON array, which does not have one text per line."""
    if first.text.startswith(POINTER):
        raise MissingInputError(f"{where} is a pointer of Git LFS, not the file itself.", "git lfs pull")
    if _ARRAY.match(first.text):
        raise ConfigError(f"{where} is a JSON array, but --file takes one JSON object per line.", _LINES)
    if where.lower().endswith(".tsv"):
        _refuse_header(first, where)


def _refuse_header(first: Text, where: str) -> None:
    if all(cell is None or cell.strip().lower() in _HEADERS for cell in first):
        raise ConfigError(
            f"The first line of {where} is the header of a table, but --file takes lines.",
            f"--out ANSWERS; or {_LINES}",
        )
