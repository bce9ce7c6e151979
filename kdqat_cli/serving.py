"""Models in a Python program: texts in, answers out.

    from kdqat_cli.serving import load

    model = load("runs/rte/packed/map+output-42", threads=2)
    model("A man eats.")                              # {"label": …, "probabilities": {…}}
    model(("A man eats.", "Somebody eats."))          # a pair of texts
    model(["A man eats.", "Nobody eats."])            # a list of answers

Guarantees
- An answer is that of `kdqat predict`, and depends neither on the other texts of its list nor on the number of threads.
- A packed classifier is served by the engine. No torch is imported.
- Several Python threads may use one model; they take turns. After a fork the child loads the model again.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.config import Device
from kdqat_cli.errors import ConfigError
from kdqat_cli.stages.predict import open_model
from kdqat_cli.tasks.answers import Answer, Answerer
from kdqat_cli.tasks.text.answers import TextAnswerer
from kdqat_cli.texts import Text, require_fit

Given = str | tuple[str, str]
"""A text, or a text and its pair."""


class _Opened(NamedTuple):
    process: int
    runner: Answerer
    lock: Lock


class Model:
    """A model that answers texts; `load` makes one."""

    def __init__(self, source: str | Path, threads: int | None = None, device: Device | None = None) -> None:
        """Loads a model; for arguments and errors see `load`."""
        self._source, self._threads, self._device = str(source), threads, device
        self._opened = self._open()

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, in the order of the logits; None: the answer is a value or a translation."""
        return self._opened.runner.labels

    @property
    def remark(self) -> str | None:
        """A sentence if a slower implementation computes than the intended one; else None."""
        return self._opened.runner.remark

    @overload
    def __call__(self, given: Given, batch_size: int = 32) -> Answer: ...
    @overload
    def __call__(
        self, given: list[Given] | list[str] | list[tuple[str, str]], batch_size: int = 32
    ) -> list[Answer]: ...
    def __call__(self, given: Given | Sequence[Given], batch_size: int = 32) -> Answer | list[Answer]:
        """The answer to a text or a pair, or the answers to a list of them.

        Args:
            given: a text, a pair of texts as a tuple, or a list of either.
            batch_size: number of texts that are computed together.

        Returns:
            For each text a dictionary with `label` and `probabilities`, with `value` (regression), with `translation`,
            or with `error` if the model has no answer.

        Raises:
            ConfigError: a value is not a text, a pair is given to a model of single texts or the reverse, or
                `batch_size` is below 1.
            MissingInputError: the model is damaged.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}.", "batch_size=32")
        if isinstance(given, list):
            return self._answers(given, batch_size)
        one: Any = given  # a value that is neither a text nor a pair is refused by name
        return self._answers([one], 1)[0]

    def logits(self, given: Sequence[Given]) -> NDArray[np.float32]:
        """Computes the logits (texts, labels) of texts or pairs.

        Raises:
            ConfigError: see `__call__`; or the model does not read texts.
            ValueError: the tokenizer makes no tokens of a text.
        """
        opened = self._ready()
        runner = opened.runner
        if not isinstance(runner, TextAnswerer):
            raise ConfigError(f"{self._source} does not read texts, so it has no logits of texts.", "model(given)")
        texts = [_text(one, runner.pairs) for one in given]
        with opened.lock:
            return runner.logits(runner.read(texts))

    def _answers(self, given: Sequence[Given], batch_size: int) -> list[Answer]:
        opened = self._ready()
        texts = [_text(one, opened.runner.pairs) for one in given]
        answers: list[Answer] = []
        with opened.lock:
            for start in range(0, len(texts), batch_size):
                answers += opened.runner.answers(texts[start : start + batch_size])
        return answers

    def _open(self) -> _Opened:
        return _Opened(os.getpid(), open_model(self._source, self._threads, self._device), Lock())

    def _ready(self) -> _Opened:
        if self._opened.process != os.getpid():  # the engine's threads do not exist in a forked process
            self._opened = self._open()
        return self._opened


def load(source: str | Path, threads: int | None = None, device: Device | None = None) -> Model:
    """Loads a model that answers texts.

    Args:
        source: a packed folder or file; or a student, a teacher or a hub id, which torch computes.
        threads: number of threads; None: the number of processors.
        device: `cpu` or `cuda`; None: the CPU for a packed model, else the GPU if there is one.

    Raises:
        ConfigError: the model cannot be served on a GPU.
        MissingInputError: there is no model, a file is damaged, or there is no GPU.
    """
    return Model(source, threads, device)


def _text(given: object, pairs: bool | None) -> Text:
    if isinstance(given, str):
        text, pair = given, None
    elif isinstance(given, tuple) and len(given) == 2 and all(isinstance(one, str) for one in given):
        text, pair = given
    else:
        raise ConfigError(
            f"A text is a str, a pair is a tuple of two; {type(given).__name__} is neither.",
            'model("A text."), model(("A text.", "Its pair."))',
        )
    return require_fit(Text(text, pair), pairs, "The text")
