"""A tokenizer in a GGUF file: WordPiece, byte-level BPE or Unigram, as llama.cpp's `bert`, `gpt2` and `t5`.

llama.cpp finds added tokens in a text before it splits the rest, as tokenizers does. But it finds them only as they are
written, not in other case, and inside words too. It classes rare characters by tables of its own. The export compares
the tokens of texts and so tells what llama.cpp splits otherwise (parity.py).
"""

import base64
import json
from collections import Counter
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError

_SPACE = "\u2581"  # marks the start of a word
_NORMAL, _UNKNOWN, _CONTROL, _ADDED, _UNUSED = 1, 2, 3, 4, 5  # llama.cpp's token types
_NORMALIZERS = {
    "WordPiece": {"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD"},
    "BPE": {"NFC"},
}
"""Per kind of tokenizer, the normalisers that llama.cpp has or can do without."""


def write_vocabulary(writer: Any, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Writes tokens and special tokens.

    Args:
        writer: a gguf.GGUFWriter.
        tokenizer: a fast tokenizer.
        config: the model's, whose number of word embeddings the tokens are filled up to.

    Raises:
        ConfigError: a kind of tokenizer or normaliser that llama.cpp does not have, more tokens than embeddings, or
            two tokens that are one to llama.cpp.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = backend["model"]["type"]
    if kind not in _WRITERS:
        raise ConfigError(f"llama.cpp has no tokenizer of the kind {kind}.", "--format onnx")
    for normalizer in _normalizers(backend):
        if normalizer["type"] not in _NORMALIZERS.get(kind, {normalizer["type"]}):
            raise ConfigError(f"llama.cpp's {kind} has no normaliser {normalizer['type']}.", "--format onnx")
    tokens, types = _tokens(tokenizer, backend, config.vocab_size)
    writer.add_token_type_count(config.type_vocab_size)
    _WRITERS[kind](writer, backend, tokens, types)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.cls_token_id)
    writer.add_eos_token_id(tokenizer.sep_token_id)
    writer.add_sep_token_id(tokenizer.sep_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.mask_token_id is not None:
        writer.add_mask_token_id(tokenizer.mask_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens that were added to a fast tokenizer's vocabulary and are not special."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return [token["content"] for token in backend["added_tokens"] if not token["special"]]


def _tokens(tokenizer: PreTrainedTokenizerBase, backend: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Tokens and llama.cpp's types of them, one for each of `size` embeddings."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [_UNUSED] * size
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if index >= size:
            raise ConfigError(
                f"The tokenizer's token {token!r} has the number {index}, but the model has {size} embeddings.",
                "kdqat finetune-teacher, with an encoder that has an embedding for every token",
            )
        tokens[index] = token
        types[index] = _UNUSED if token.startswith("[unused") else _NORMAL
    for added in backend["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _ADDED
    for index in tokenizer.all_special_ids:
        types[index] = _UNKNOWN if index == tokenizer.unk_token_id else _CONTROL
    return tokens, types


def _normalizers(backend: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokenizer's normalisers in their order, out of any sequences."""
    waiting = [backend["normalizer"]] if backend.get("normalizer") else []
    found = []
    while waiting:
        normalizer = waiting.pop(0)
        if normalizer["type"] == "Sequence":
            waiting = normalizer["normalizers"] + waiting
        else:
            found.append(normalizer)
    return found


def _wordpiece(writer: Any, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    # llama.cpp marks the pieces that start a word; WordPiece those that do not.
    prefix = backend["model"]["continuing_subword_prefix"]
    marked = [
        token if kind != _NORMAL else token.removeprefix(prefix) if token.startswith(prefix) else _SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    twice = next((piece for piece, count in Counter(marked).items() if count > 1), None)
    if twice is not None:  # llama.cpp would abort
        first, second = [token for token, piece in zip(tokens, marked, strict=True) if piece == twice][:2]
        raise ConfigError(f"The tokens {first!r} and {second!r} are one token to llama.cpp.", "--format onnx")
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(marked)
    lowercase = strip = False
    for normalizer in _normalizers(backend):
        lowers = normalizer["type"] == "Lowercase" or normalizer.get("lowercase", False)
        # BERT's normaliser strips accents where it does not say, if it lowers.
        strips = normalizer.get("strip_accents", normalizer["type"] == "StripAccents")
        lowercase, strip = lowercase or lowers, strip or (lowers if strips is None else strips)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", strip)


def _bpe(writer: Any, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("roberta-bpe")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)


def _unigram(writer: Any, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    scores = [0.0] * len(tokens)
    for index, (_, score) in enumerate(backend["model"]["vocab"]):
        scores[index] = score
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    for normalizer in _normalizers(backend):
        if normalizer.get("precompiled_charsmap"):
            writer.add_precompiled_charsmap(base64.b64decode(normalizer["precompiled_charsmap"]))


_WRITERS = {"WordPiece": _wordpiece, "BPE": _bpe, "Unigram": _unigram}
