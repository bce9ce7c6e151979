"""Sentences as words, and words as the numbers that a network reads.

A sentence is cut as BLEU cuts it, by sacrebleu's tokenizer 13a (that of mteval-v13a): to cut its words again changes
nothing, so that a translation, whose words stand between spaces, is scored as it was made. Text that is cut already is
cut at spaces. The most frequent words of train are numbered from 2 in the source and from 4 in the target; the numbers
below are those of the public code of Polino et al., that is OpenNMT's:

    0 a word that is not known, 1 padding, 2 begin and 3 end of a target sentence

Words may also be pieces of words (pieces.py); the vocabulary then holds what cuts a sentence into them.
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
_BEFORE_SOURCE, _BEFORE_TARGET = 2, 4  # numbers that are no words
_LARGEST = 2**28  # bytes of a vocabulary file


Cut = Callable[[str], list[str]]
"""Cuts a sentence into words."""


def cutters(task: TranslationTask) -> tuple[Cut, Cut]:
    """What cuts source and target of a task whose words are no pieces."""
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
    """The words that a network knows, and how sentences are cut; saved beside it as vocabulary.json."""

    version: Literal[1] = 1
    """Version of this schema."""
    languages: Both
    """Names of the source's and the target's language."""
    words: WordsName
    """How sentences are cut into words."""
    lower: bool
    """Whether words are lower-cased."""
    source: list[str] = Field(min_length=1)
    """Words of the source in the order of their numbers, from 2."""
    target: list[str] = Field(min_length=1)
    """Words of the target in the order of their numbers, from 4."""
    models: list[str] | None = Field(default=None, min_length=2, max_length=2)
    """SentencePiece's models of source and target, in base64, where words are pieces."""

    @model_validator(mode="after")
    def _no_word_twice(self) -> Self:
        for side in ("source", "target"):
            words: list[str] = getattr(self, side)
            if len(set(words)) < len(words):
                raise PydanticCustomError("twice", "{side}: a word occurs twice", {"side": side})
        if (self.words == "sentencepiece") != (self.models is not None):
            raise PydanticCustomError(
                "models", "models must be given for the words of sentencepiece, and no others", {}
            )
        return self

    @classmethod
    def of(cls, task: TranslationTask, source: Iterable[Sequence[str]], target: Iterable[Sequence[str]]) -> Self:
        """The most frequent words of the training rows; of equally frequent ones, the first in the order of Unicode.

        Args:
            task: says how many, and how they were cut.
            source: words of each source sentence.
            target: words of each target sentence.

        Raises:
            MissingInputError: a side has no word that is frequent enough.
        """
        sides = [_frequent(task, sentences) for sentences in (source, target)]
        if not all(sides):
            raise MissingInputError(
                f"Task {task.name}: no word stands {task.least} times in train.", "a smaller least in the task file"
            )
        return cls(languages=task.languages, words=task.words, lower=task.lower, source=sides[0], target=sides[1])

    @classmethod
    def of_pieces(cls, task: TranslationTask, source: Sequence[str], target: Sequence[str]) -> Self:
        """The pieces of the training sentences.

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
        """What cuts a source and a target sentence.

        Raises:
            MissingInputError: a model of SentencePiece is damaged, or sentencepiece is not installed.
        """
        if self.models is None:
            plain = partial(cut, words=self.words, lower=self.lower)
            return plain, plain
        source, target = (partial(self._pieces, _model(text)) for text in self.models)
        return source, target

    def _pieces(self, model: bytes, sentence: str) -> list[str]:
        return pieces.cut(model, sentence.lower() if self.lower else sentence)

    def text(self, words: Sequence[str]) -> str:
        """The sentence of words: pieces are joined, others stand between spaces."""
        return " ".join(words) if self.models is None else pieces.joined(words)

    @property
    def sizes(self) -> dict[str, int]:
        """What a network's configuration says of it."""
        return {
            "source_words": len(self.source) + _BEFORE_SOURCE,
            "target_words": len(self.target) + _BEFORE_TARGET,
        }

    @property
    def digest(self) -> str:
        """sha256 of everything in it."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    def source_numbers(self, words: Iterable[str]) -> list[int]:
        """The numbers of a source sentence's words."""
        return [self._source_numbers.get(word, UNKNOWN) for word in words]

    def target_numbers(self, words: Iterable[str]) -> list[int]:
        """The numbers of a target sentence's words, without begin and end."""
        return [self._target_numbers.get(word, UNKNOWN) for word in words]

    def sentence(self, numbers: Iterable[int], instead: Iterable[str]) -> str:
        """A target sentence; see `text`.

        Args:
            numbers: of its words, without begin and end.
            instead: a word for each, which takes its place where it is not known.
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
        """The vocabulary beside a network.

        Args:
            folder: of the network.
            sizes: of the network, as `sizes` gives them.
            fix: the command that makes the folder again.

        Raises:
            MissingInputError: it is missing or damaged, or has other sizes than the network.
        """
        path = folder / FILE
        if not path.is_file():
            raise MissingInputError(f"{folder} has no {FILE}, the words that the network knows.", fix)
        text = text_of(path, read_bytes(path, _LARGEST))
        try:
            found = parse(cls, _value(text, path, fix), str(path))
        except ConfigError as error:
            raise MissingInputError(f"{error.sentence.splitlines()[0]}\nThe vocabulary is damaged.", fix) from error
        for name, size in sizes.items():
            if found.sizes[name] != size:
                raise MissingInputError(
                    f"{path} has {found.sizes[name]} {name.replace('_', ' ')}, special ones included, but the network "
                    f"beside it {size}.",
                    fix,
                )
        return found


def _model(text: str) -> bytes:
    try:
        model = base64.b64decode(text, validate=True)
        pieces.processor(model)
    except (binascii.Error, ValueError) as error:
        raise MissingInputError(f"{FILE}: its model of SentencePiece is damaged.", "kdqat finetune-teacher") from error
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
