"""The rows of a text task in the form that a model reads, and a model's score on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.config import PaddingName
from kdqat_cli.engine.engine import Engine
from kdqat_cli.errors import ConfigError
from kdqat_cli.record import BY_LENGTH, LONGEST_ROW, Batches
from kdqat_cli.tasks.details import Answers
from kdqat_cli.tasks.kind import Sample
from kdqat_cli.tasks.metrics import chance_score, compute_metrics
from kdqat_cli.tasks.text.data import data_digest, load_split
from kdqat_cli.tasks.text.head import threshold_of
from kdqat_cli.tasks.text.inference import Predictor, tokenize
from kdqat_cli.tasks.text.schema import TextTask


@dataclass(frozen=True)
class TaskRows:
    """One split of a task, tokenised.

    Attributes:
        task: the task.
        rows: input_ids, attention_mask, labels, length, and token_type_ids if the tokenizer gives them.
        texts: the columns text and pair of the same rows.
        tokenizer: the tokenizer of the rows.
        digest: sha256 of the rows before tokenising.
        batches: how rows are batched for scoring.
        max_length: largest number of tokens of a row.
    """

    task: TextTask
    rows: Dataset
    texts: Dataset
    tokenizer: PreTrainedTokenizerBase
    digest: str
    batches: Batches
    max_length: int

    @property
    def labels(self) -> Any:
        """The gold labels (rows,); for a multi-label task (rows, labels)."""
        return np.asarray(self.rows["labels"])

    @property
    def chance(self) -> float:
        """The score in percent of the best constant answer."""
        return chance_score(self.task, self.labels)

    @property
    def examples(self) -> Dataset:
        """The rows, in the form that `collate` takes."""
        return self.rows.remove_columns("length")

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return list(self.rows["length"])

    def collate(self, padding: PaddingName) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """See `Rows` in tasks/kind.py. Rows are padded to the longest of the batch or to `max_length`."""
        padded = DataCollatorWithPadding(self.tokenizer, padding=padding, max_length=self.max_length)

        def batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            inputs = dict(padded(rows))
            return inputs | {"counted": inputs["attention_mask"]}

        return batch

    def part(self, numbers: list[int]) -> "TaskRows":
        """Some of the rows, by their numbers."""
        return replace(self, rows=self.rows.select(numbers), texts=self.texts.select(numbers))

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Three groups: [CLS], [SEP] (or the tokenizer's own names for these two), and all other tokens."""
        ids, counted = batch["input_ids"], batch["counted"].bool()
        special = {"[CLS]": self.tokenizer.cls_token_id, "[SEP]": self.tokenizer.sep_token_id}
        groups = {name: (ids == number) & counted for name, number in special.items() if number is not None}
        rest = counted.clone()
        for mask in groups.values():
            rest &= ~mask
        return groups | {"rest": rest}

    def sample(self, number: int) -> Sample:
        """The texts and tokens of a row."""
        texts = self.texts[number]
        tokens = self.tokenizer.convert_ids_to_tokens(self.rows[number]["input_ids"])
        return Sample((texts["text"], *([texts["pair"]] if texts.get("pair") is not None else [])), tuple(tokens))

    def score(self, model: PreTrainedModel, engine: Engine | None = None) -> dict[str, float]:
        """A model's metrics on these rows, in percent; `score` is the headline. For `engine` see `Predictor`."""
        return compute_metrics(self.task, self._logits(model, engine), self.labels, threshold_of(model.config))

    def answers(self, model: PreTrainedModel, engine: Engine | None = None) -> Answers:
        """A model's answers to all rows, with their texts."""
        shown = {name: list(self.texts[name]) for name in self.texts.column_names if name != "label"}
        return Answers(self._logits(model, engine), self.labels, shown, threshold_of(model.config))

    def _logits(self, model: PreTrainedModel, engine: Engine | None) -> NDArray[np.float32]:
        return Predictor(model, engine).logits(self.rows, self.tokenizer, self.batches)


def row_length(
    task: TextTask, tokenizer: PreTrainedTokenizerBase, wanted: int | None, option: str = "--max-length "
) -> int:
    """The largest number of tokens of a row: `wanted`, else the smaller of the task's length and the encoder's limit.

    Args:
        task: the task, which has its own length.
        tokenizer: tokenizer of the model; its `model_max_length` is the encoder's limit.
        wanted: the length that the user or a record asks for, or None.
        option: the option that sets `wanted`, for the error.

    Raises:
        ConfigError: `wanted` is more than the encoder's limit, or leaves no room for text.
    """
    limit = int(min(tokenizer.model_max_length, LONGEST_ROW))
    if wanted is None:
        return min(task.max_length, limit)
    special = tokenizer.num_special_tokens_to_add(pair=task.pairs)
    least = special + (2 if task.pairs else 1)
    if wanted < least:
        raise ConfigError(
            f"Rows of {wanted} tokens have no room for {'two texts' if task.pairs else 'text'} beside the {special} "
            "special tokens.",
            f"{option}{least}",
        )
    if wanted > limit:
        raise ConfigError(f"The encoder reads at most {limit} tokens, not {wanted}.", f"{option}{limit}")
    return wanted


def task_rows(
    task: TextTask,
    split: str,
    data_dir: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    batches: Batches = BY_LENGTH,
    limit: int | None = None,
) -> TaskRows:
    """Loads and tokenises one split.

    Args:
        task: the task.
        split: `train`, `dev`, or another split of the task.
        data_dir: folder of local task data, or None.
        tokenizer: tokenizer of the model.
        max_length: largest number of tokens of a row.
        batches: how rows are cut, and batched for scoring.
        limit: largest number of rows, from the first; None: all.
    """
    rows = load_split(task, split, data_dir)
    if limit is not None and limit < len(rows):
        rows = rows.select(range(limit))
    tokenized = tokenize(rows, tokenizer, max_length, batches.keeps_more)
    return TaskRows(task, tokenized, rows, tokenizer, data_digest(rows), batches, max_length)
