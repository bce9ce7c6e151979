"""The pairs of a task in the form that a network reads, and a network's translations and score."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from kdqat_cli import group
from kdqat_cli.config import PaddingName
from kdqat_cli.record import BY_LENGTH
from kdqat_cli.tasks.kind import Sample
from kdqat_cli.tasks.translation.data import Pairs
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.search import search
from kdqat_cli.tasks.translation.words import BEGIN, END, PADDING, Vocabulary

if TYPE_CHECKING:
    from kdqat_cli.engine.engine import Engine

Example = tuple[list[int], list[int]]
_NO_LABEL = -100
_LARGEST_LOSS = 700.0  # exp of a larger number overflows


@dataclass(frozen=True)
class TranslationRows:
    """One split of a task.

    Attributes:
        task: the task.
        pairs: its sentences and their translations.
        vocabulary: the network's vocabulary.
    """

    task: TranslationTask
    pairs: Pairs
    vocabulary: Vocabulary

    @property
    def digest(self) -> str:
        """sha256 of the rows, and of the fields of the task that their score depends on."""
        return self.pairs.digest(self.task)

    @property
    def chance(self) -> float:
        """The headline score of a constant answer, which is the first reference."""
        return self._measured([self.vocabulary.text(self.pairs.target[0])] * len(self.pairs))[self.task.metric]

    @cached_property
    def examples(self) -> list[Example]:
        """The numbers of the source words and of the target words of each row."""
        known = self.vocabulary
        pairs = zip(self.pairs.source, self.pairs.target, strict=True)
        return [(known.source_numbers(source), known.target_numbers(target)) for source, target in pairs]

    @property
    def lengths(self) -> list[int]:
        """The number of words of the longer side of each row."""
        return self.pairs.longer_sides

    def collate(self, padding: PaddingName) -> Callable[[list[Example]], dict[str, Tensor]]:
        """See `Rows` in tasks/kind.py. Rows are padded to the longest of the batch."""
        return _batch

    def part(self, numbers: list[int]) -> "TranslationRows":
        """Some of the rows, by their numbers."""
        return replace(self, pairs=self.pairs.part(numbers))

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """No groups, because no measure uses groups of words."""
        return {}

    def sample(self, number: int) -> Sample:
        """The sentence and its reference."""
        return Sample((self.vocabulary.text(self.pairs.source[number]), self.pairs.references[number]))

    def score(self, model: PreTrainedModel, engine: "Engine | None" = None) -> dict[str, float]:
        """BLEU and chrF of the beam search's translations, in percent, and the perplexity, which is a plain number.

        The perplexity is exp of the mean negative log likelihood per target word, with the end of the sentence as a
        word. Pairs with more than the task's `longest` words on a side do not count in it.
        """
        figures = self._measured(self.translations(model)) | {"perplexity": self._perplexity(model)}
        return {"score": figures[self.task.metric]} | {name: figures[name] for name in self.task.metrics}

    def answers(self, model: PreTrainedModel, engine: "Engine | None" = None) -> None:
        """None, because a translation is neither a class nor a number."""

    def translations(self, model: PreTrainedModel) -> list[str]:
        """The translation of every row, in the form of `Vocabulary.text`.

        An unknown word is replaced by the source word with the largest attention weight. Each process of a group
        translates a share of the batches.
        """
        # For each row and word: 1 + the number of the word (0: no word), and the position of a source word.
        found = torch.zeros((len(self.pairs), self.task.most, 2), dtype=torch.long, device=model.device)
        with _evaluating(model):
            for rows in self._mine(range(len(self.pairs))):
                source, lengths = _padded([self.examples[row][0] for row in rows])
                here = source.to(model.device), lengths.to(model.device)
                for row, words in zip(rows, search(model, *here, self.task.beam, self.task.most), strict=True):
                    found[row, : len(words)] = words + torch.tensor([1, 0], device=words.device)
        sentences = []
        for source_words, words in zip(self.pairs.source, group.add_up(found).tolist(), strict=True):
            numbers = [(number - 1, source_words[place]) for number, place in words if number]
            sentences.append(self.vocabulary.sentence(*zip(*numbers, strict=True)) if numbers else "")
        return sentences

    def taught(self, translations: list[str]) -> "TranslationRows":
        """These rows with a translation of each row as its target; an empty translation leaves the target unchanged.

        Rows with more than the task's `longest` words on a side are left out.
        """
        cut = self.vocabulary.cutters[1]
        targets = [cut(new) or old for new, old in zip(translations, self.pairs.target, strict=True)]
        pairs = Pairs(self.pairs.source, targets, self.pairs.references)
        return replace(self, pairs=pairs.up_to(self.task.longest))

    @torch.no_grad()
    def _perplexity(self, model: PreTrainedModel) -> float:
        short = [row for row, length in enumerate(self.lengths) if length <= self.task.longest]
        sums = torch.zeros(2, dtype=torch.float64, device=model.device)  # negative log likelihood, and words
        with _evaluating(model):
            for rows in self._mine(short):
                batch = {
                    name: tensor.to(model.device)
                    for name, tensor in _batch([self.examples[row] for row in rows]).items()
                }
                labels, counted = batch.pop("labels"), batch.pop("counted")
                logits = model(**batch).logits.float().flatten(0, 1)
                sums[0] += F.cross_entropy(logits, labels.flatten(), reduction="sum").double()
                sums[1] += counted.sum()
        total, words = group.add_up(sums).tolist()
        return math.exp(min(total / words, _LARGEST_LOSS))

    def _mine(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """This process's share of the batches; a batch has rows of similar length."""
        lengths = self.lengths
        for number, batch in enumerate(BY_LENGTH.of([lengths[row] for row in rows])):
            if number % group.size() == group.rank():
                yield [rows[place] for place in batch]

    def _measured(self, translations: list[str]) -> dict[str, float]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        # `force` suppresses a warning that the translations are tokenised; they are, by BLEU's own tokenizer.
        tokenizer = "none" if self.task.words == "spaces" else "13a"
        bleu = BLEU(lowercase=self.task.lower, tokenize=tokenizer, force=True)
        references = [list(self.pairs.references)]
        measures = {"bleu": bleu, "chrf": CHRF(lowercase=self.task.lower)}
        return {name: float(one.corpus_score(translations, references).score) for name, one in measures.items()}


def _padded(rows: list[list[int]], value: int = PADDING) -> tuple[Tensor, Tensor]:
    """The rows as one tensor (B, longest), padded at the end, and their lengths (B,)."""
    padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
    return padded, torch.tensor([len(row) for row in rows])


def _batch(rows: list[Example]) -> dict[str, Tensor]:
    """A batch: the inputs of a network, `labels` and `counted` (see `Rows.collate` in tasks/kind.py)."""
    source, lengths = _padded([source for source, _ in rows])
    target_in, _ = _padded([[BEGIN, *target] for _, target in rows])
    labels, _ = _padded([[*target, END] for _, target in rows], _NO_LABEL)
    batch = {"source": source, "lengths": lengths, "target_in": target_in, "labels": labels}
    return batch | {"counted": (labels != _NO_LABEL).long()}


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model into eval mode for the duration of the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
