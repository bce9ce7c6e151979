"""Tokenised rows, and logits for them: the one way in which kdqat evaluates."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli import group
from kdqat_cli.config import KeepsMoreName
from kdqat_cli.errors import ConfigError
from kdqat_cli.record import BY_LENGTH, Batches
from kdqat_cli.runtime.engine import Engine
from kdqat_cli.runtime.native_model import NativeModel
from kdqat_cli.runtime.student import native_student

T = TypeVar("T")


def tokenize(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, keeps_more: KeepsMoreName = "longer"
) -> Dataset:
    """Columns text, pair, label → input_ids, attention_mask, token_type_ids, labels, length.

    Args:
        rows: a split of a task.
        tokenizer: the model's.
        max_length: tokens a row is cut to, the longer text of a pair first.
        keeps_more: where both texts of a pair are cut and an odd number of tokens is left: `longer` lets the longer one
            keep one token more, of equally long ones the second, as tokenizers do; `first` the first one, as the
            public code does.

    Raises:
        ConfigError: `first`, with a tokenizer that is not a fast one.
    """
    if keeps_more == "first" and not tokenizer.is_fast:
        raise ConfigError("keeps_more is first, which takes a fast tokenizer.", "--set student.keeps_more=longer")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        if "pair" in batch and keeps_more == "first":
            encoded = _cut_pairs(tokenizer, batch["text"], batch["pair"], max_length)
        else:
            encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "labels": batch["label"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names)


def _cut_pairs(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str], max_length: int
) -> dict[str, list[list[int]]]:
    """Pairs cut as the public code does: until they fit, the longer text loses a token, of equals the second.

    Two long texts keep ⌈room / 2⌉ and ⌊room / 2⌋ tokens.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    firsts, seconds = (tokenizer(side, add_special_tokens=False, verbose=False).encodings for side in (texts, pairs))
    joined = []
    for first, second in zip(firsts, seconds, strict=True):
        kept = min(len(second), max(room // 2, room - len(first)))
        second.truncate(kept, direction=tokenizer.truncation_side)
        first.truncate(min(len(first), room - kept), direction=tokenizer.truncation_side)
        joined.append(tokenizer.backend_tokenizer.post_process(first, second))
    values = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
    return {name: [getattr(row, values[name]) for row in joined] for name in tokenizer.model_input_names}


def padded_batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
) -> Iterator[tuple[list[int], Any]]:
    """Tokenised rows as the batches of a forward pass.

    Yields:
        The rows' places (B), and the model's inputs (B, L) by name.
    """
    padding = "longest" if batches.pad_to is None else "max_length"
    for indices in batches.of(rows["length"]):
        batch = rows.select(indices).remove_columns(["labels", "length"])
        yield indices, tokenizer.pad(batch[:], max_length=batches.pad_to, padding=padding, return_tensors="pt")


class Predictor:
    """A classifier that is ready to predict: a ternary student by the engine where that serves it, else by torch."""

    def __init__(self, model: PreTrainedModel, engine: Engine | None = None) -> None:
        """Takes `model` as it is now; a student that trains on needs another predictor.

        Args:
            model: the classifier.
            engine: of the same model's packed file, on a GPU; None: whatever serves the model where it is.

        Raises:
            ConfigError: KDQAT_KERNEL names a kernel that does not run here.
        """
        self._model = model
        self._engine = engine or native_student(model)

    @torch.no_grad()
    def logits(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
    ) -> NDArray[np.float32]:
        """Logits (rows, labels) of tokenised rows, in their order; the model is in eval mode meanwhile.

        The processes of a group take turns at the batches, and each returns all logits.
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
