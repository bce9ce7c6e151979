"""Tokenised rows, and logits for them: the one way in which kdqat evaluates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli import group


@dataclass(frozen=True)
class Batches:
    """How rows are put together for forward passes.

    Attributes:
        size: rows of a batch; one fixed size, so that a score does not depend on the training's.
        pad_to: tokens that every row is padded to, the rows being in their own order; None: rows of like length
            together, padded to the longest. Only a student whose batch shares an activation scale feels the difference.
    """

    size: int = 64
    pad_to: int | None = None

    def of(self, lengths: list[int]) -> Iterator[list[int]]:
        """Indices of the rows of each batch."""
        order = list(range(len(lengths)))
        if self.pad_to is None:  # padding is computed and thrown away
            order.sort(key=lambda index: lengths[index], reverse=True)
        for start in range(0, len(order), self.size):
            yield order[start : start + self.size]


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Columns text, pair, label → input_ids, attention_mask, token_type_ids, labels, length.

    Args:
        rows: a split of a task.
        tokenizer: the model's.
        max_length: tokens a row is cut to, the longer sentence of a pair first.
    """

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "labels": batch["label"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names)


BY_LENGTH = Batches()
"""What serves every model whose predictions depend on the row alone."""


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


@torch.no_grad()
def predict_logits(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, batches: Batches = BY_LENGTH
) -> NDArray[np.float32]:
    """Logits (rows, labels) of tokenised rows, in their order; the model is in eval mode meanwhile.

    The processes of a group take turns at the batches, and each returns all logits.
    """
    if not len(rows):
        raise ValueError("no rows to predict")
    training = model.training
    model.eval()
    logits = torch.zeros(len(rows), model.config.num_labels, device=model.device)
    mine = islice(padded_batches(rows, tokenizer, batches), group.rank(), None, group.size())
    for indices, padded in mine:
        logits[indices] = model(**padded.to(model.device)).logits.float()
    model.train(training)
    out: NDArray[np.float32] = group.add_up(logits).cpu().numpy()
    return out
