"""Tokenised rows, and logits for them: the one way in which kdqat evaluates."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVALUATION_BATCH = 64  # rows; of one fixed size, so that a score does not depend on the training's batch size


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


def padded_batches(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], Any]]:
    """Tokenised rows, 64 at a time and the longest first, padded to the longest of their batch.

    Yields:
        The rows' places (B), and the model's inputs (B, L) by name.
    """
    for indices in _batches(rows["length"]):
        batch = rows.select(indices).remove_columns(["labels", "length"])
        yield indices, tokenizer.pad(batch[:], return_tensors="pt")


@torch.no_grad()
def predict_logits(model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.float32]:
    """Logits (rows, labels) of tokenised rows, in their order; the model is in eval mode meanwhile."""
    training = model.training
    model.eval()
    logits: NDArray[np.float32] | None = None
    for indices, padded in padded_batches(rows, tokenizer):
        out = model(**padded.to(model.device)).logits.float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(rows), out.shape[1]), dtype=np.float32)
        logits[indices] = out
    model.train(training)
    if logits is None:
        raise ValueError("no rows to predict")
    return logits


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    # Rows of like length together: padding is computed and thrown away.
    order = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    for start in range(0, len(order), EVALUATION_BATCH):
        yield order[start : start + EVALUATION_BATCH]
