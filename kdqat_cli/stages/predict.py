"""predict: texts → labels and probabilities, a batch at a time.

A packed model runs on the engine, which needs no torch. Any other is loaded by torch, as it is to be evaluated.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.config import Device
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import MissingInputError
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.record import LONGEST_ROW
from kdqat_cli.store.folder import MODEL
from kdqat_cli.tasks.text.reader import Reader, packed_reader
from kdqat_cli.texts import Text


class Answer(TypedDict, total=False):
    """What `predict` says of a text: label and probabilities, or a value, or an error."""

    text: str
    """The text."""
    pair: str
    """The second text of a pair."""
    label: str
    """The most probable class."""
    probabilities: dict[str, float]
    """Of every class."""
    value: float
    """Of a regression."""
    error: str
    """Why there is no answer."""


class Runner(Protocol):
    """A model that is ready to predict."""

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes; None: regression."""

    @property
    def pairs(self) -> bool | None:
        """Whether it was trained on pairs of texts; None: it does not say."""

    @property
    def remark(self) -> str | None:
        """A sentence for the user, or None."""

    def read(self, texts: list[Text]) -> list[Row]:
        """Token ids and types of each text."""

    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        """(rows, labels)."""


def packed_file(model: str) -> Path | None:
    """The packed file that a path leads to; None: the model is of another kind."""
    folder = Path(model)
    return next((path for path in (folder, folder / FILE_NAME, folder / MODEL / FILE_NAME) if path.is_file()), None)


def open_model(model: str, threads: int | None = None, device: Device | None = None) -> Runner:
    """A model to predict with.

    Args:
        model: a packed folder or file; or a student, a teacher, or a hub id.
        threads: that compute together; None: as many as there are processors.
        device: that computes; None: for a packed model the processor, for others the GPU where there is one.

    Raises:
        ConfigError: the GPU is asked for a packed model that is not served there.
        MissingInputError: nothing to load there, a damaged file, or no GPU.
    """
    packed = packed_file(model)
    return _LoadedRunner(model, threads, device) if packed is None else _EngineRunner(packed, threads, device or "cpu")


def predict(runner: Runner, batches: Iterable[list[Text]]) -> Iterator[Answer]:
    """One record per text, in their order: the text, and its label and probabilities, or its value.

    A text that the model has no answer for (it makes no tokens, or a logit is NaN or infinite) has an `error` instead.

    Args:
        runner: see `open_model`.
        batches: texts that the model takes, a batch computed together; read as the records are taken.

    Raises:
        MissingInputError: tokenizer or model fail; the model is damaged.
    """
    for batch in batches:
        rows = runner.read(batch)
        taken = [place for place, (ids, _) in enumerate(rows) if len(ids)]
        try:
            logits = list(runner.logits([rows[place] for place in taken])) if taken else []
        except ValueError as error:
            raise MissingInputError(f"The model fails on a text: {error}.") from error
        answers = dict(zip(taken, logits, strict=True))
        for place, text in enumerate(batch):
            given = Answer(text=text.text) if text.pair is None else Answer(text=text.text, pair=text.pair)
            yield given | _answer(runner.labels, answers.get(place))


class _EngineRunner:
    def __init__(self, path: Path, threads: int | None, device: Device) -> None:
        from kdqat_cli.engine.engine import Engine

        self.engine = Engine.load(path, threads, device)
        record = self.engine.record
        self.labels, self.pairs, self.remark = record.labels, record.pairs, self.engine.remark
        self._reader = packed_reader(path, record, self.engine.config)

    def read(self, texts: list[Text]) -> list[Row]:
        return _read(self._reader, texts)

    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        return self.engine.logits(rows)


class _LoadedRunner:
    def __init__(self, model: str, threads: int | None, device: Device | None) -> None:
        import torch

        from kdqat_cli.native import MOST_THREADS
        from kdqat_cli.tasks.records import require_text
        from kdqat_cli.tasks.text.inference import Predictor, reader_of
        from kdqat_cli.tasks.text.models import load_classifier

        require_text(model, "kdqat predict")
        if threads:
            torch.set_num_threads(min(threads, MOST_THREADS))
        if device == "cuda":
            from kdqat_cli.engine.gpu.model import gpu

            gpu()  # where there is one, the model is loaded onto it
        self.loaded = load_classifier(model)
        if device == "cpu":
            self.loaded.model.cpu()
        self.predictor = Predictor(self.loaded.model)
        config, tokenizer = self.loaded.model.config, self.loaded.tokenizer
        self.labels: list[str] | None = None
        self.pairs: bool | None = self.loaded.record.pairs
        if config.problem_type != "regression":
            self.labels = [config.id2label[index] for index in range(config.num_labels)]
        self.remark = None
        length = self.loaded.record.max_length or int(min(tokenizer.model_max_length, LONGEST_ROW))
        self._reader = reader_of(tokenizer, length, self.loaded.record.batches.keeps_more)

    def read(self, texts: list[Text]) -> list[Row]:
        return _read(self._reader, texts)

    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        from datasets import Dataset

        from kdqat_cli.tasks.text.inference import columns

        table = Dataset.from_dict(columns(rows) | {"labels": [0] * len(rows)})
        return self.predictor.logits(table, self.loaded.tokenizer)


def _read(reader: Reader, texts: list[Text]) -> list[Row]:
    return reader.rows([row.text for row in texts], [row.pair for row in texts])


def _answer(labels: list[str] | None, logits: NDArray[np.float32] | None) -> Answer:
    if logits is None:
        return {"error": "The tokenizer makes no tokens of it."}
    if not np.isfinite(logits).all():
        return {"error": "The model's answer is NaN or infinite."}
    exact = logits.astype(np.float64)
    if labels is None:
        return {"value": round(float(exact[0]), 6)}
    power = np.exp(exact - exact.max())
    probabilities = (power / power.sum()).round(6).tolist()
    return {"label": labels[int(exact.argmax())], "probabilities": dict(zip(labels, probabilities, strict=True))}
