"""Makes standard input, output and error safe before a command runs.

- A stream that the caller closed (`>&-`) is opened on the null device. Otherwise the next opened file would get its
  number, and text for the stream would be written into that file. A result for a closed standard output is lost, so the
  command fails. A command that reads standard input calls `input_closed`.
- If a reader ends (`kdqat ls tasks | head -1`), the rest of the output goes to the null device, and the command goes
  on. So a training continues when the reader of its log ends. A command that streams answers calls `reader_gone`.
- A character that the encoding of the stream does not have is written as a backslash escape.
"""

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from kdqat_cli.errors import MissingInputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_INPUT, _OUTPUT, _ERROR = range(3)
_FIX = "the same command with another output, such as > FILE"
_closed: set[int] = set()
_gone: set[int] = set()


class _Raw(io.FileIO):
    """A stream on the descriptor of standard output or error, which it does not close."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes, or drops them if there is no reader.

        Raises:
            MissingInputError: standard output cannot be written, for example because it was closed or its disk is full.
        """
        if self.fileno() == _OUTPUT and _OUTPUT in _closed:
            _closed.remove(_OUTPUT)  # reported once; buffered text goes to the null device when Python ends
            raise MissingInputError("The result cannot be written: standard output is closed.", _FIX)
        try:
            return super().write(data)
        except BrokenPipeError:
            _gone.add(self.fileno())
            self._discard()
        except OSError as error:
            if self.fileno() == _OUTPUT:
                self._discard()  # buffered text must not fail again when Python ends
                raise MissingInputError(
                    f"The result cannot be written to standard output: {error.strerror}.", _FIX
                ) from error
            # Only progress is lost, not the result.
        return memoryview(data).nbytes

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def guard() -> None:
    """Makes the standard streams of this process safe. Call it before any file is opened."""
    for descriptor in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the lowest free number, which is this one.
            opened = os.open(os.devnull, os.O_RDONLY if descriptor == _INPUT else os.O_WRONLY)
            os.set_inheritable(opened, True)
            _closed.add(descriptor)
    sys.stdin = sys.stdin or open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(sys.stdout, _OUTPUT)
    sys.stderr = _stream(sys.stderr, _ERROR)


def input_closed() -> bool:
    """Whether the caller closed standard input."""
    return _INPUT in _closed


def reader_gone() -> bool:
    """Whether the reader of standard output has ended."""
    return _OUTPUT in _gone


def encoding_of(stream: TextIO) -> str:
    """The encoding of a text stream; UTF-8 if it has none."""
    return stream.encoding or "utf-8"


def _stream(before: TextIO | None, descriptor: int) -> TextIO:
    """A text stream on a descriptor, with the encoding of the previous stream (None: it was closed)."""
    encoding = "utf-8" if before is None else encoding_of(before)
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor)), encoding, "backslashreplace", line_buffering=descriptor == _ERROR
    )
