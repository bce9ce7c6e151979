"""predict: texts → labels and probabilities, a batch at a time.

A packed model runs on the engine, which needs no torch. Any other is loaded by torch, as it is to be evaluated.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.record import Record
from kdqat_cli.runtime.device import Device
from kdqat_cli.stages.digest import file_digest
from kdqat_cli.stages.folder import MODEL
from kdqat_cli.stages.layout import TOKENIZER_FILE


class Text(NamedTuple):
    """What is classified: a text, or a pair of texts."""

    text: str
    pair: str | None = None


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

    def logits(self, rows: list[Text]) -> NDArray[np.float32]:
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


def predict(runner: Runner, texts: Iterable[Text], batch_size: int) -> Iterator[dict[str, Any]]:
    """One record a text, in their order: the text, and its label and probabilities, or its value.

    Args:
        runner: see `open_model`.
        texts: read as the records are taken, so that a pipe streams.
        batch_size: texts that are computed together.

    Raises:
        ConfigError: a pair for a model of single texts, or the other way round.
    """
    source = _fitting(texts, runner.pairs)
    while batch := list(islice(source, batch_size)):
        for row, logits in zip(batch, runner.logits(batch), strict=True):
            given = {name: value for name, value in row._asdict().items() if value is not None}
            yield given | _answer(runner.labels, logits.astype(np.float64))


def _fitting(texts: Iterable[Text], pairs: bool | None) -> Iterator[Text]:
    for number, text in enumerate(texts, start=1):
        if pairs is not None and pairs != (text.pair is not None):
            given, wanted = ("a pair", "single texts") if pairs is False else ("a single text", "pairs of texts")
            raise ConfigError(
                f"Text {number} is {given}, but the model was trained on {wanted}.",
                'kdqat predict MODEL "A text." "Its second text."' if pairs else 'kdqat predict MODEL "A text."',
            )
        yield text


@contextmanager
def open_lines(file: Path | None) -> Iterator[Iterable[str]]:
    """The lines of a file; None: those of standard input, as they come.

    Raises:
        MissingInputError: no such file, or not UTF-8.
    """
    try:
        if file is None:
            yield sys.stdin
        else:
            with file.open(encoding="utf-8") as lines:
                yield lines
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(f"There is no file {file}.") from error
    except UnicodeDecodeError as error:
        raise MissingInputError(f"{file or 'standard input'} is not UTF-8 text.") from error


def read_texts(lines: Iterable[str], where: str) -> Iterator[Text]:
    """The texts of lines: each is a JSON object with `text` and maybe `pair`, or a text, or two with a tab between.

    Empty lines are texts too, so that output line n answers input line n.

    Args:
        lines: with or without their line ends.
        where: what errors call their source.

    Raises:
        ConfigError: a line that begins with a brace and is not such an object.
    """
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.startswith("{"):
            text, tab, pair = line.partition("\t")
            yield Text(text, pair if tab else None)
            continue
        try:
            value = json.loads(line)
            row = Text(value["text"], value.get("pair"))
        except (ValueError, KeyError) as error:
            raise ConfigError(f'{where}, line {number}: not a JSON object with "text".') from error
        if not isinstance(row.text, str) or not isinstance(row.pair, str | None):
            raise ConfigError(f"{where}, line {number}: text and pair must be strings.")
        yield row


class _EngineRunner:
    def __init__(self, path: Path, threads: int | None, device: Device) -> None:
        from tokenizers import Tokenizer

        from kdqat_cli.runtime.engine import Engine

        self.engine = Engine.load(path, threads, device)
        self.labels: list[str] | None = self.engine.record.labels
        self.pairs: bool | None = self.engine.record.pairs
        self.remark = self.engine.remark
        self.tokenizer = Tokenizer.from_file(str(_own_tokenizer(path, self.engine.record)))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.engine.record.max_length or 512)

    def logits(self, rows: list[Text]) -> NDArray[np.float32]:
        encoded = self.tokenizer.encode_batch([row.text if row.pair is None else (row.text, row.pair) for row in rows])
        return self.engine.logits([(row.ids, row.type_ids) for row in encoded])


class _LoadedRunner:
    def __init__(self, model: str, threads: int | None, device: Device | None) -> None:
        import torch

        from kdqat_cli.stages.inference import Predictor
        from kdqat_cli.stages.models import load_classifier

        if threads:
            torch.set_num_threads(threads)
        if device == "cuda":
            from kdqat_cli.runtime.gpu.model import gpu

            gpu()  # where there is one, the model is loaded onto it
        self.loaded = load_classifier(model, "kdqat export")
        if device == "cpu":
            self.loaded.model.cpu()
        self.predictor = Predictor(self.loaded.model)
        config = self.loaded.model.config
        self.labels: list[str] | None = None
        self.pairs: bool | None = self.loaded.record.pairs
        if config.problem_type != "regression":
            self.labels = [config.id2label[index] for index in range(config.num_labels)]
        self.remark = None

    def logits(self, rows: list[Text]) -> NDArray[np.float32]:
        from datasets import Dataset

        from kdqat_cli.stages.inference import tokenize

        tokenizer = self.loaded.tokenizer
        table = {"text": [row.text for row in rows], "label": [0] * len(rows)}
        if any(row.pair is not None for row in rows):
            table["pair"] = [row.pair or "" for row in rows]
        length = self.loaded.record.max_length or min(tokenizer.model_max_length, 512)
        keeps_more = self.loaded.record.batches.keeps_more
        return self.predictor.logits(tokenize(Dataset.from_dict(table), tokenizer, length, keeps_more), tokenizer)


def _own_tokenizer(packed: Path, record: Record) -> Path:
    path = packed.with_name(TOKENIZER_FILE)
    if not path.is_file() or file_digest(path) != record.tokenizer:
        raise MissingInputError(f"{path} is not the tokenizer that {packed} was packed with.", "kdqat export")
    return path


def _answer(labels: list[str] | None, logits: NDArray[np.float64]) -> dict[str, Any]:
    if labels is None:
        return {"value": round(float(logits[0]), 6)}
    power = np.exp(logits - logits.max())
    probabilities = (power / power.sum()).round(6).tolist()
    return {"label": labels[int(logits.argmax())], "probabilities": dict(zip(labels, probabilities, strict=True))}
