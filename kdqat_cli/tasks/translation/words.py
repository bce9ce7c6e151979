"""Splits sentences into words, and maps words to the numbers that a network reads.

There are three ways to split a sentence:

    13a             sacrebleu's tokenizer 13a (that of mteval-v13a), which BLEU uses too. It splits its own words,
                    joined with spaces, into the same words again, so BLEU scores exactly the words of a translation
    spaces          at spaces, for text that is tokenised already
    sentencepiece   pieces of words (pieces.py); the vocabulary then contains the SentencePiece models

The most frequent words of train are numbered from 2 in the source and from 4 in the target. The smaller numbers are
those of the public code of Polino et al., that is, OpenNMT's:

    0 unknown word, 1 padding, 2 begin and 3 end of a target sentence
"""

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdqat_cli.config import Section, parse
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import read_bytes, text_of
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.translation import pieces
from kdqat_cli.tasks.translation.schema import Both, TranslationTask, WordsName

FILE = "vocabulary.json"
UNKNOWN, PADDING, BEGIN, END = range(4)
_BEFORE_SOURCE, _BEFORE_TARGET = 2, 4  # the number of the first word
_LARGEST = 2**28  # bytes of a vocabulary file


Cut = Callable[[str], list[str]]
"""Splits a sentence into words."""


def cutters(task: TranslationTask) -> tuple[Cut, Cut]:
    """The functions that split source and target sentences of a task without pieces."""
    plain = partial(cut, words=task.words, lower=task.lower)
    return plain, plain


def cut(sentence: str, words: WordsName, lower: bool) -> list[str]:
    """The words of a sentence."""
    sentence = sentence.lower() if lower else sentence
    return (_tokenizer()(sentence) if words == "13a" else sentence).split()


@cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
    return tokenizer


class Vocabulary(Section):
    """The words of a network, and how sentences are split into them; saved as vocabulary.json beside the network."""

    version: Literal[1] = 1
    """Version of this schema."""
    languages: Both
    """Names of the source language and the target language."""
    words: WordsName
    """How sentences are split into words."""
    lower: bool
    """Whether words are lower-cased."""
    source: list[str] = Field(min_length=1)
    """Words of the source in the order of their numbers, from 2."""
    target: list[str] = Field(min_length=1)
    """Words of the target in the order of their numbers, from 4."""
    models: list[str] | None = Field(default=None, min_length=2, max_length=2)
    """SentencePiece models of source and target, in base64; null: words are not pieces."""

    @model_validator(mode="after")
    def _no_word_twice(self) -> Self:
        for side in ("source", "target"):
            words: list[str] = getattr(self, side)
            if len(set(words)) < len(words):
                raise PydanticCustomError("twice", "{side}: a word occurs twice", {"side": side})
        if (self.words == "sentencepiece") != (self.models is not None):
            raise PydanticCustomError("models", "models must be given for words: sentencepiece, and only for these", {})
        return self

    @classmethod
    def of(cls, task: TranslationTask, source: Iterable[Sequence[str]], target: Iterable[Sequence[str]]) -> Self:
        """The most frequent words of the training rows; among equally frequent words, those first in Unicode order.

        Args:
            task: the task, which has the limits of the vocabulary.
            source: words of each source sentence.
            target: words of each target sentence.

        Raises:
            MissingInputError: a side has no word that is frequent enough.
        """
        sides = [_frequent(task, sentences) for sentences in (source, target)]
        if not all(sides):
            raise MissingInputError(
                f"Task {task.name}: no word occurs {task.least} times in train.", "a smaller least in the task file"
            )
        return cls(languages=task.languages, words=task.words, lower=task.lower, source=sides[0], target=sides[1])

    @classmethod
    def of_pieces(cls, task: TranslationTask, source: Sequence[str], target: Sequence[str]) -> Self:
        """Learns pieces from the training sentences.

        Raises:
            ConfigError: the task's vocabulary is too small.
            MissingInputError: sentencepiece is not installed.
        """
        lower = str.lower if task.lower else str
        models = [pieces.learn([lower(row) for row in side], task.vocabulary) for side in (source, target)]
        known_source, known_target = (pieces.pieces(model) for model in models)
        return cls(
            languages=task.languages,
            words=task.words,
            lower=task.lower,
            source=known_source,
            target=known_target,
            models=[base64.b64encode(model).decode() for model in models],
        )

    @cached_property
    def cutters(self) -> tuple[Cut, Cut]:
        """The functions that split source and target sentences.

        Raises:
            MissingInputError: a SentencePiece model is damaged, or sentencepiece is not installed.
        """
        if self.models is None:
            plain = partial(cut, words=self.words, lower=self.lower)
            return plain, plain
        source, target = (partial(self._pieces, _model(text)) for text in self.models)
        return source, target

    def _pieces(self, model: bytes, sentence: str) -> list[str]:
        return pieces.cut(model, sentence.lower() if self.lower else sentence)

    def text(self, words: Sequence[str]) -> str:
        """Joins words to a sentence, with spaces between them; pieces are joined to words first."""
        return " ".join(words) if self.models is None else pieces.joined(words)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the vocabulary, as fields of a network's configuration."""
        return {
            "source_words": len(self.source) + _BEFORE_SOURCE,
            "target_words": len(self.target) + _BEFORE_TARGET,
        }

    @property
    def digest(self) -> str:
        """sha256 of all fields."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    def source_numbers(self, words: Iterable[str]) -> list[int]:
        """The numbers of a source sentence's words."""
        return [self._source_numbers.get(word, UNKNOWN) for word in words]

    def target_numbers(self, words: Iterable[str]) -> list[int]:
        """The numbers of a target sentence's words, without begin and end."""
        return [self._target_numbers.get(word, UNKNOWN) for word in words]

    def sentence(self, numbers: Iterable[int], instead: Iterable[str]) -> str:
        """A target sentence, in the form of `text`.

        Args:
            numbers: numbers of its words, without begin and end.
            instead: for each word a replacement, used if the word is unknown.
        """
        pairs = zip(numbers, instead, strict=True)
        return self.text(
            [word if number == UNKNOWN else self.target[number - _BEFORE_TARGET] for number, word in pairs]
        )

    @cached_property
    def _source_numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.source, _BEFORE_SOURCE)}

    @cached_property
    def _target_numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.target, _BEFORE_TARGET)}

    def save(self, folder: Path) -> None:
        """Writes vocabulary.json."""
        write_json(folder / FILE, self.model_dump(exclude_none=True))

    @classmethod
    def load(cls, folder: Path, sizes: dict[str, int], fix: str | None) -> "Vocabulary":
        """Loads the vocabulary beside a network.

        Args:
            folder: folder of the network.
            sizes: sizes in the network's configuration, with the keys of the property `sizes`.
            fix: the command that makes the folder again.

        Raises:
            MissingInputError: it is missing or damaged, or has other sizes than the network.
        """
        path = folder / FILE
        if not path.is_file():
            raise MissingInputError(f"{folder} has no {FILE}, which has the words of the network.", fix)
        text = text_of(path, read_bytes(path, _LARGEST))
        try:
            found = parse(cls, _value(text, path, fix), str(path))
        except ConfigError as error:
            raise MissingInputError(f"{error.sentence.splitlines()[0]}\nThe vocabulary is damaged.", fix) from error
        for name, size in sizes.items():
            if found.sizes[name] != size:
                raise MissingInputError(
                    f"{path} has {found.sizes[name]} {name.replace('_', ' ')}, special ones included, but its network "
                    f"has {size}.",
                    fix,
                )
        return found


def _model(text: str) -> bytes:
    try:
        model = base64.b64decode(text, validate=True)
        pieces.processor(model)
    except (binascii.Error, ValueError) as error:
        raise MissingInputError(f"{FILE}: a SentencePiece model is damaged.", "kdqat finetune-teacher") from error
    return model


def _value(text: str, path: Path, fix: str | None) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MissingInputError(f"{path} is not JSON; the vocabulary is damaged.", fix) from error


def _frequent(task: TranslationTask, sentences: Iterable[Sequence[str]]) -> list[str]:
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted((word for word in counts if counts[word] >= task.least), key=lambda word: (-counts[word], word))
    return words[: task.vocabulary]
