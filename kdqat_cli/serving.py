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
    """A model that answers; `load` makes one."""

    def __init__(self, source: str | Path, threads: int | None = None, device: Device | None = None) -> None:
        """Loads a model; arguments and errors as of `load`."""
        self._source, self._threads, self._device = str(source), threads, device
        self._opened = self._open()

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, in the order of the logits; None: it answers with a value, or a translation."""
        return self._opened.runner.labels

    @property
    def remark(self) -> str | None:
        """A sentence where something slower took the place of what was meant to compute; None otherwise."""
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
            batch_size: texts that are computed together.

        Returns:
            Per text a dictionary with `label` and `probabilities`, with `value` (regression), with `translation`, or
            with `error` where the model has no answer.

        Raises:
            ConfigError: something that is not a text, a pair for a model of single texts or the reverse, or a
                `batch_size` below 1.
            MissingInputError: the model is damaged.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}.", "batch_size=32")
        if isinstance(given, list):
            return self._answers(given, batch_size)
        one: Any = given  # what is neither a text nor a pair is refused by name
        return self._answers([one], 1)[0]

    def logits(self, given: Sequence[Given]) -> NDArray[np.float32]:
        """Logits (texts, labels) of texts or pairs.

        Raises:
            ConfigError: as `__call__`, or the model is not one of texts.
            ValueError: a text makes no tokens.
        """
        opened = self._ready()
        runner = opened.runner
        if not isinstance(runner, TextAnswerer):
            raise ConfigError(f"{self._source} is no model of texts, so it has no logits of texts.", "model(given)")
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
        if self._opened.process != os.getpid():  # threads of the engine do not live on in a forked process
            self._opened = self._open()
        return self._opened


def load(source: str | Path, threads: int | None = None, device: Device | None = None) -> Model:
    """A model to answer with.

    Args:
        source: a packed folder or file; or a student, a teacher, or a hub id, which torch computes.
        threads: that compute together; None: as many as there are processors.
        device: `cpu` or `cuda`; None: the processor for a packed model, else the GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for a model that is not served there.
        MissingInputError: nothing to load there, a damaged file, or no GPU.
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
