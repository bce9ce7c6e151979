"""A task's rows as a model reads them, and its score on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.stages.inference import predict_logits, tokenize
from kdqat_cli.tasks.data import data_digest, load_split
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.registry import Task


@dataclass(frozen=True)
class TaskRows:
    """One split of a task, tokenised.

    Attributes:
        task: the task.
        rows: input_ids, attention_mask, labels, length, and token_type_ids where the tokenizer gives them.
        tokenizer: what they were tokenised with.
        digest: sha256 of the rows before tokenising.
    """

    task: Task
    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    digest: str

    @property
    def labels(self) -> Any:
        """The gold labels (rows,)."""
        return np.asarray(self.rows["labels"])

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """A model's metrics on these rows, in percent; `score` is the headline."""
        return compute_metrics(self.task, predict_logits(model, self.rows, self.tokenizer), self.labels)


def task_rows(
    task: Task, split: str, data_dir: Path | None, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> TaskRows:
    """Loads and tokenises one split.

    Args:
        task: the task.
        split: `train`, `dev`, or another that the task names.
        data_dir: folder of local data, or None.
        tokenizer: the model's.
        max_length: tokens a row is cut to; None: the task's own length.
    """
    rows = load_split(task, split, data_dir)
    return TaskRows(task, tokenize(rows, tokenizer, max_length or task.max_length), tokenizer, data_digest(rows))
