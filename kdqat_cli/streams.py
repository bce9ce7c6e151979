"""Standard input, output and error, made safe before a command runs.

- A stream that the caller closed (`>&-`) is opened on the null device. Otherwise the next file that is opened would get
  its number, and text meant for the stream would go into that file. A result for a closed standard output is lost, so
  the command fails; a command that reads standard input asks `input_closed`.
- A reader that goes away (`kdqat ls tasks | head -1`) ends nothing: what is still written goes to the null device.
  A training whose log has lost its reader goes on to its end. A command that streams its answers asks `reader_gone`.
- A character that the stream's encoding lacks is written as a backslash escape.
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

from kdqat_cli.errors import MissingInputError

_INPUT, _OUTPUT, _ERROR = range(3)
_FIX = "the same command with another output, such as > FILE"
_closed: set[int] = set()
_gone: set[int] = set()


class _Raw(io.FileIO):
    """The descriptor of standard output or error; its caller owns it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any, /) -> int:
        """Writes bytes, or drops them where nobody reads them.

        Raises:
            MissingInputError: standard output cannot take them: it was closed, or its disk is full, for example.
        """
        if self.fileno() == _OUTPUT and _OUTPUT in _closed:
            _closed.remove(_OUTPUT)  # told once; what is still buffered goes to the null device when Python ends
            raise MissingInputError("The result cannot be written: standard output is closed.", _FIX)
        try:
            return super().write(data)
        except BrokenPipeError:
            _gone.add(self.fileno())
            self._discard()
        except OSError as error:
            if self.fileno() == _OUTPUT:
                self._discard()  # what is still buffered must not fail again when Python ends
                raise MissingInputError(
                    f"The result cannot be written to standard output: {error.strerror}.", _FIX
                ) from error
            # Progress is lost, but the result is not.
        return len(data)

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def guard() -> None:
    """Makes this process's standard streams safe. Call it before any file is opened."""
    for descriptor in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the lowest number that is free, which is this one.
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
    """Whether the reader of standard output has gone away."""
    return _OUTPUT in _gone


def encoding_of(stream: TextIO) -> str:
    """The encoding of a text stream; UTF-8 where it does not say."""
    return stream.encoding or "utf-8"


def _stream(before: TextIO | None, descriptor: int) -> TextIO:
    """A text stream on a descriptor, with the encoding of the one before (None: it was closed)."""
    encoding = "utf-8" if before is None else encoding_of(before)
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor)), encoding, "backslashreplace", line_buffering=descriptor == _ERROR
    )
