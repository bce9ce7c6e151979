"""Pieces of words by SentencePiece (Kudo and Richardson, 2018): its unigram model, learnt from the training sentences.

A piece that begins a word begins with ▁, so that pieces are joined to a sentence again. The package sentencepiece is
imported where it is needed: no other vocabulary takes it.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kdqat_cli.errors import ConfigError, MissingInputError

_SPACE = "▁"
_NUMBERS = {"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1}  # the vocabulary numbers the rest


def learn(sentences: Sequence[str], size: int) -> bytes:
    """A model of pieces.

    Args:
        sentences: that it is learnt from.
        size: pieces at most; there are fewer where the sentences give no more.

    Raises:
        ConfigError: the size is too small for the letters of the sentences.
        MissingInputError: sentencepiece is not installed.
    """
    model = io.BytesIO()
    # One thread: several add up in another order, and equal rows must give equal pieces.
    options = {"vocab_size": size, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1}
    try:
        _package().SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, minloglevel=2, **options, **_NUMBERS
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise ConfigError(
            f"SentencePiece learns no {size} pieces from train: {reason}.", "vocabulary in the task file"
        ) from error
    return model.getvalue()


@lru_cache(maxsize=4)
def processor(model: bytes) -> Any:
    """What cuts a sentence, from the bytes of `learn`.

    Raises:
        MissingInputError: sentencepiece is not installed.
        ValueError: the bytes are no model of SentencePiece.
    """
    try:
        return _package().SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError("no model of SentencePiece") from error


def pieces(model: bytes) -> list[str]:
    """All pieces, in their order, without the one for what is not known."""
    found = processor(model)
    return [found.id_to_piece(number) for number in range(1, found.get_piece_size())]


def cut(model: bytes, sentence: str) -> list[str]:
    """The pieces of a sentence."""
    found: list[str] = processor(model).encode(sentence, out_type=str)
    return found


def joined(words: Sequence[str]) -> str:
    """The sentence of pieces."""
    return "".join(words).replace(_SPACE, " ").strip()


def _package() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingInputError(
            "`words: sentencepiece` needs the package sentencepiece, not installed here.", "pip install sentencepiece"
        ) from error
    return sentencepiece
