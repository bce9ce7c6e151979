"""Pieces of words, by SentencePiece's unigram model (Kudo and Richardson, 2018), trained on the training sentences.

The first piece of a word begins with ▁, so pieces can be joined to a sentence again. The package sentencepiece is only
imported for such a vocabulary.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kdqat_cli.errors import ConfigError, MissingInputError

_SPACE = "▁"
_NUMBERS = {"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1}  # the vocabulary numbers the rest


def learn(sentences: Sequence[str], size: int) -> bytes:
    """Trains a SentencePiece model.

    Args:
        sentences: the training sentences.
        size: largest number of pieces; a small corpus gives fewer.

    Raises:
        ConfigError: the size is too small for the characters of the sentences.
        MissingInputError: sentencepiece is not installed.
    """
    model = io.BytesIO()
    # One thread, because equal rows must give equal pieces, and several threads sum in a varying order.
    options = {"vocab_size": size, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1}
    try:
        _package().SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, minloglevel=2, **options, **_NUMBERS
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise ConfigError(
            f"SentencePiece cannot learn {size} pieces from train: {reason}.", "another vocabulary in the task file"
        ) from error
    return model.getvalue()


@lru_cache(maxsize=4)
def processor(model: bytes) -> Any:
    """Loads a SentencePiece model from the bytes that `learn` returns.

    Raises:
        MissingInputError: sentencepiece is not installed.
        ValueError: the bytes are not a SentencePiece model.
    """
    try:
        return _package().SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError("not a SentencePiece model") from error


def pieces(model: bytes) -> list[str]:
    """All pieces in the order of their numbers, without the piece for unknown text."""
    found = processor(model)
    return [found.id_to_piece(number) for number in range(1, found.get_piece_size())]


def cut(model: bytes, sentence: str) -> list[str]:
    """The pieces of a sentence."""
    found: list[str] = processor(model).encode(sentence, out_type=str)
    return found


def joined(words: Sequence[str]) -> str:
    """Joins pieces to a sentence."""
    return "".join(words).replace(_SPACE, " ").strip()


def _package() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingInputError(
            "words: sentencepiece needs the package sentencepiece, which is not installed.", "pip install sentencepiece"
        ) from error
    return sentencepiece
