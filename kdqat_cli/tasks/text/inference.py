"""Tokenises rows and computes their logits. Every evaluation of a text classifier uses this module."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli import group
from kdqat_cli.config import KeepsMoreName
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.engine.row import Row
from kdqat_cli.engine.student import native_student
from kdqat_cli.errors import ConfigError, MissingInputError, shown
from kdqat_cli.record import BY_LENGTH, Batches
from kdqat_cli.tasks.text.reader import Reader, inputs_of

T = TypeVar("T")


def reader_of(tokenizer: PreTrainedTokenizerBase, max_length: int, keeps_more: KeepsMoreName = "longer") -> Reader:
    """The reader that turns texts into rows of at most `max_length` tokens; for `keeps_more` see `Reader`.

    Raises:
        ConfigError: the tokenizer is written in Python.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"The tokenizer {type(tokenizer).__name__} is written in Python; kdqat takes those of tokenizers.",
            "a folder with tokenizer.json",
        )
    return Reader(tokenizer.backend_tokenizer, max_length, inputs_of(tokenizer), keeps_more)


def columns(rows: Sequence[Row]) -> dict[str, Sequence[object]]:
    """Rows as columns: input_ids, attention_mask, length, and token_type_ids if the model has this input."""
    ids = [row for row, _ in rows]
    lengths = [len(row) for row in ids]
    masks = [[1] * length for length in lengths]
    made: dict[str, Sequence[object]] = {"input_ids": ids, "length": lengths, "attention_mask": masks}
    types = [kinds for _, kinds in rows if kinds is not None]
    return made | ({"token_type_ids": types} if types else {})


def tokenize(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, keeps_more: KeepsMoreName = "longer"
) -> Dataset:
    """Columns text, pair, label → those of `columns`, and labels.

    Args:
        rows: a split of a task.
        tokenizer: tokenizer of the model.
        max_length: largest number of tokens of a row; the longer text of a pair is cut first.
        keeps_more: see `Reader`.

    Raises:
        ConfigError: the tokenizer is written in Python.
        MissingInputError: the tokenizer fails, or makes no tokens of a text.
    """
    reader = reader_of(tokenizer, max_length, keeps_more)

    def encode(batch: dict[str, list[str]]) -> dict[str, Sequence[object]]:
        found = columns(reader.rows(batch["text"], batch.get("pair") or [None] * len(batch["text"])))
        if 0 in found["length"]:
            text = batch["text"][found["length"].index(0)]
            raise MissingInputError(f"The tokenizer makes no tokens of the text {shown(text)}.")
        return found | {"labels": batch["label"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names)


def padded_batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Tokenised rows as the batches of a forward pass.

    Yields:
        The indices of the rows (B,), and the model's inputs (B, L) by name.
    """
    padding = "longest" if batches.pad_to is None else "max_length"
    for indices in batches.of(rows["length"]):
        batch = rows.select(indices).remove_columns(["labels", "length"])
        yield (
            indices,
            tokenizer.pad(
                batch[:], max_length=batches.pad_to, padding=padding, return_tensors="pt", return_attention_mask=True
            ),
        )


class Predictor:
    """A classifier that is ready to predict: on the engine, if it supports the model, otherwise in torch."""

    def __init__(self, model: PreTrainedModel, engine: Engine | None = None) -> None:
        """Takes the present weights of `model`; after more training, a student needs a new predictor.

        Args:
            model: the classifier.
            engine: engine on a GPU with the packed file of the same model; None: the engine or torch, on the model's
                device.

        Raises:
            ConfigError: KDQAT_KERNEL names a kernel that does not run here.
        """
        self._model = model
        self._engine = engine or native_student(model)

    @torch.no_grad()
    def logits(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
    ) -> NDArray[np.float32]:
        """Computes the logits (rows, labels) of tokenised rows, in their order, in eval mode.

        Each process of a group computes a share of the batches, and each returns all logits.
        """
        if not len(rows):
            raise ValueError("no rows to predict")
        model = self._model
        logits = torch.zeros(len(rows), model.config.num_labels, device=model.device)
        training = model.training
        model.eval()
        if self._engine is None:
            results = _by_torch(model, rows, tokenizer, batches)
        else:
            results = _by_engine(self._engine, rows, batches)
        for indices, found in results:
            logits[indices] = found.to(logits.device)
        model.train(training)
        out: NDArray[np.float32] = group.add_up(logits).cpu().numpy()
        return out


def predict_logits(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
) -> NDArray[np.float32]:
    """Logits (rows, labels) of tokenised rows, in their order, as `Predictor` gives them."""
    return Predictor(model).logits(rows, tokenizer, batches)


def _by_torch(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches
) -> Iterator[tuple[list[int], Tensor]]:
    for indices, padded in _turns(padded_batches(rows, tokenizer, batches)):
        yield indices, model(**padded.to(model.device)).logits.float()


def _by_engine(engine: Engine | NativeModel, rows: Dataset, batches: Batches) -> Iterator[tuple[list[int], Tensor]]:
    for indices in _turns(batches.of(rows["length"])):
        columns = rows.select(indices)[:]
        types = columns.get("token_type_ids", [None] * len(indices))
        yield indices, torch.from_numpy(engine.logits(list(zip(columns["input_ids"], types, strict=True))))


def _turns(batches: Iterator[T]) -> Iterator[T]:
    return islice(batches, group.rank(), None, group.size())
