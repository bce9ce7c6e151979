"""The YAML file of a translation task: where its sentences lie, and how they are cut into words."""

import re
from typing import Annotated, Literal

from pydantic import Field

from kdqat_cli.tasks.task import Hosted, Task

WordsName = Literal["13a", "spaces", "sentencepiece"]
"""How a sentence is cut into words; words.py says what each is."""

Both = Annotated[list[str], Field(min_length=2, max_length=2)]
"""One of the source, one of the target."""


class TranslationTask(Task):
    """A task whose rows are sentences with their translations."""

    metric: Literal["bleu", "chrf"] = "bleu"
    """The headline score."""
    languages: Both
    """Names of the source's and the target's language."""
    files: dict[str, Both]
    """Per split, the source's and the target's file, with one sentence per line; relative to the data folder or, for a
    user's task, to the task file's own folder. Line i of one translates line i of the other."""
    words: WordsName = "13a"
    """How sentences are cut into words: by sacrebleu's tokenizer 13a; at spaces, where they are cut already; or into
    SentencePiece's pieces, learnt from train (package sentencepiece). BLEU counts the words of 13a, or those between
    spaces."""
    lower: bool = False
    """Whether words are lower-cased; the scores then ignore case."""
    vocabulary: int = Field(default=50_000, ge=1)
    """Words of each language at most: the most frequent of train, or SentencePiece's."""
    least: int = Field(default=1, ge=1)
    """Times that a word must stand in train to be one of them."""
    longest: int = Field(default=50, ge=1)
    """Words per side of the longest pair that is trained on and that counts in the perplexity; BLEU and chrF count all
    pairs."""
    beam: int = Field(default=5, ge=1, le=100)
    """Unfinished translations that the search follows; 1 takes the likeliest word each time."""
    most: int = Field(default=100, ge=1, le=10_000)
    """Words of a translation at most."""
    network: str
    """Network of a teacher that names none."""

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        return ["dev", *(split for split in self.files if split not in ("train", "dev"))]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the headline's first."""
        return list(dict.fromkeys([self.metric, "bleu", "chrf", "perplexity"]))

    @property
    def answers(self) -> str:
        """What `kdqat ls tasks` shows of the answers."""
        return "words"

    @property
    def row(self) -> dict[str, object]:
        """What `kdqat ls tasks` shows of a row."""
        return {"rows": f"{' → '.join(self.languages)}", "files": self.files["train"][0]}

    @property
    def hosted(self) -> Hosted:
        """The task in the words of the model hub."""
        codes = [name for name in self.languages if re.fullmatch("[a-z]{2,3}", name)]
        return Hosted("translation", codes)

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """A network: see `Task.source`."""
        return super().source(encoder, network or self.network, default)

    def faults(self) -> list[str]:
        """See `Task.faults`."""
        missing = [split for split in ("train", "dev") if split not in self.files]
        return [f"files: {' and '.join(missing)} must be given."] if missing else []
