"""Texts → labels and probabilities. A packed model runs on the engine, without torch; any other is loaded by torch."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.config import Device
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import MissingInputError
from kdqat_cli.record import LONGEST_ROW
from kdqat_cli.tasks.answers import Answer, Gives, answer_of
from kdqat_cli.tasks.text.reader import Reader, packed_reader
from kdqat_cli.texts import Text


class TextAnswerer(ABC):
    """A classifier of texts: see `Answerer` in tasks/answers.py.

    Attributes:
        labels: names of the classes; None: regression.
        threshold: least probability of an answered label of a multi-label model; None: the model is not multi-label.
    """

    labels: list[str] | None
    threshold: float | None
    pairs: bool | None
    remark: str | None
    _reader: Reader

    @property
    def gives(self) -> Gives:
        """See `Answerer`."""
        return "value" if self.labels is None else "label" if self.threshold is None else "labels"

    @abstractmethod
    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        """(rows, labels)."""

    def read(self, texts: list[Text]) -> list[Row]:
        """Token ids and types of each text."""
        return self._reader.rows([row.text for row in texts], [row.pair for row in texts])

    def answers(self, batch: list[Text]) -> list[Answer]:
        """See `Answerer`; the answer to a text without tokens is an error."""
        rows = self.read(batch)
        taken = [place for place, (ids, _) in enumerate(rows) if len(ids)]
        try:
            logits = list(self.logits([rows[place] for place in taken])) if taken else []
        except ValueError as error:
            raise MissingInputError(f"The model fails on a text: {error}.") from error
        found = [Answer(error="The tokenizer makes no tokens of it.") for _ in batch]
        for place, values in zip(taken, logits, strict=True):
            found[place] = answer_of(self.labels, values, self.threshold)
        return found


class PackedAnswerer(TextAnswerer):
    """A packed classifier on the engine."""

    def __init__(self, path: Path, threads: int | None, device: Device | None) -> None:
        """Loads a packed file; the arguments are those of `open_model` in stages/predict.py."""
        from kdqat_cli.engine.engine import Engine

        self.engine = Engine.load(path, threads, device or "cpu")
        record = self.engine.record
        self.labels, self.threshold, self.pairs = record.labels, record.threshold, record.pairs
        self.remark = self.engine.remark
        self._reader = packed_reader(path, record, self.engine.config)

    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        """See `TextAnswerer`."""
        return self.engine.logits(rows)


class LoadedAnswerer(TextAnswerer):
    """A classifier that torch has loaded."""

    def __init__(self, model: str) -> None:
        """Loads a folder or hub id."""
        from kdqat_cli.tasks.text.head import threshold_of
        from kdqat_cli.tasks.text.inference import Predictor, reader_of
        from kdqat_cli.tasks.text.models import load_classifier

        self.loaded = load_classifier(model)
        self.predictor = Predictor(self.loaded.model)
        config, tokenizer = self.loaded.model.config, self.loaded.tokenizer
        self.labels, self.threshold = None, threshold_of(config)
        self.pairs, self.remark = self.loaded.record.pairs, None
        if config.problem_type != "regression":
            self.labels = [config.id2label[index] for index in range(config.num_labels)]
        length = self.loaded.record.max_length or int(min(tokenizer.model_max_length, LONGEST_ROW))
        self._reader = reader_of(tokenizer, length, self.loaded.record.batches.keeps_more)

    def logits(self, rows: list[Row]) -> NDArray[np.float32]:
        """See `TextAnswerer`."""
        from datasets import Dataset

        from kdqat_cli.tasks.text.inference import columns

        table = Dataset.from_dict(columns(rows) | {"labels": [0] * len(rows)})
        return self.predictor.logits(table, self.loaded.tokenizer)
