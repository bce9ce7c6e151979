"""The YAML file of a translation task: the files of its sentences, and how sentences are split into words."""

import re
from typing import Annotated, Literal

from pydantic import Field

from kdqat_cli.tasks.task import Hosted, Task

WordsName = Literal["13a", "spaces", "sentencepiece"]
"""Ways to split a sentence into words; words.py explains them."""

Both = Annotated[list[str], Field(min_length=2, max_length=2)]
"""One value for the source, one for the target."""


class TranslationTask(Task):
    """A task whose rows are sentences with their translations."""

    metric: Literal["bleu", "chrf"] = "bleu"
    """The headline score."""
    languages: Both
    """Names of the source language and the target language."""
    files: dict[str, Both]
    """Per split, the source's and the target's file, with one sentence per line; relative to the data folder or, for a
    user's task, to the task file's own folder. Line i of one translates line i of the other."""
    words: WordsName = "13a"
    """How sentences are split into words: 13a, by sacrebleu's tokenizer; spaces, for text that is tokenised already; or
    sentencepiece, into pieces that are learnt from train (package sentencepiece). BLEU uses the words of 13a, or with
    `spaces` those between spaces."""
    lower: bool = False
    """Whether words are lower-cased; the scores then ignore case."""
    vocabulary: int = Field(default=50_000, ge=1)
    """Largest number of words of each language: the most frequent words of train, or SentencePiece's pieces."""
    least: int = Field(default=1, ge=1)
    """Smallest number of occurrences in train of a word of the vocabulary."""
    longest: int = Field(default=50, ge=1)
    """Largest number of words per side of a pair for training and perplexity; BLEU and chrF are over all pairs."""
    beam: int = Field(default=5, ge=1, le=100)
    """Width of the beam search: the number of unfinished translations; 1 always takes the most probable word."""
    most: int = Field(default=100, ge=1, le=10_000)
    """Largest number of words of a translation."""
    network: str
    """Network of a teacher, unless --network names another."""

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        return ["dev", *(split for split in self.files if split not in ("train", "dev"))]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics; the headline is first."""
        return list(dict.fromkeys([self.metric, "bleu", "chrf", "perplexity"]))

    @property
    def answers(self) -> str:
        """See `Task.answers`."""
        return "words"

    @property
    def row(self) -> dict[str, object]:
        """See `Task.row`."""
        return {"rows": f"{' → '.join(self.languages)}", "files": self.files["train"][0]}

    @property
    def hosted(self) -> Hosted:
        """See `Task.hosted`."""
        codes = [name for name in self.languages if re.fullmatch("[a-z]{2,3}", name)]
        return Hosted("translation", codes)

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """A network: see `Task.source`."""
        return super().source(encoder, network or self.network, default)

    def faults(self) -> list[str]:
        """See `Task.faults`."""
        missing = [split for split in ("train", "dev") if split not in self.files]
        return [f"files: {' and '.join(missing)} must be given."] if missing else []
