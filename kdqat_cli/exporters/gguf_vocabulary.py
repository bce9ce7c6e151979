"""Writes a tokenizer into a GGUF file: WordPiece, byte-level BPE or Unigram, as llama.cpp's `bert`, `gpt2` and `t5`.

Like tokenizers, llama.cpp finds added tokens in a text before it splits the rest. But it does not ignore their case,
and it also finds them inside words. It classifies rare characters by its own tables. Therefore the export compares the
tokens of texts (parity.py).
"""

import base64
import json
from collections import Counter
from typing import TYPE_CHECKING, Required, TypedDict

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SPACE = "\u2581"  # marks the start of a word
_NORMAL, _UNKNOWN, _CONTROL, _ADDED, _UNUSED = 1, 2, 3, 4, 5  # llama.cpp's token types
_NORMALIZERS = {
    "WordPiece": {"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD"},
    "BPE": {"NFC"},
}
"""Kind of tokenizer → the normalisers that llama.cpp has or does not need."""


class _Added(TypedDict):
    id: int
    content: str
    special: bool


class _Normalizer(TypedDict, total=False):
    type: Required[str]
    normalizers: "list[_Normalizer]"
    lowercase: bool
    strip_accents: bool | None
    precompiled_charsmap: str


class _Model(TypedDict, total=False):
    type: Required[str]
    continuing_subword_prefix: str
    merges: list[str] | list[list[str]]
    vocab: list[tuple[str, float]]


class _Backend(TypedDict):
    """The parts of a tokenizer.json that are read here."""

    model: _Model
    normalizer: _Normalizer | None
    added_tokens: list[_Added]


def write_vocabulary(writer: "GGUFWriter", tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Writes tokens and special tokens.

    Args:
        writer: writes the file.
        tokenizer: a fast tokenizer.
        config: the configuration of the model; the tokens are padded to its number of word embeddings.

    Raises:
        ConfigError: llama.cpp does not have this kind of tokenizer or normaliser, there are more tokens than
            embeddings, or llama.cpp cannot distinguish two tokens.
    """
    backend = _backend(tokenizer)
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
    """The tokens that were added to the vocabulary of a fast tokenizer and are not special."""
    return [token["content"] for token in _backend(tokenizer)["added_tokens"] if not token["special"]]


def _backend(tokenizer: PreTrainedTokenizerBase) -> _Backend:
    backend: _Backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return backend


def _tokens(tokenizer: PreTrainedTokenizerBase, backend: _Backend, size: int) -> tuple[list[str], list[int]]:
    """Tokens and their types in llama.cpp, one for each of `size` embeddings."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [_UNUSED] * size
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if index >= size:
            raise ConfigError(
                f"The token {token!r} of the tokenizer has the id {index}, but the model has only {size} embeddings.",
                "kdqat finetune-teacher, with an encoder that has an embedding for every token",
            )
        tokens[index] = token
        types[index] = _UNUSED if token.startswith("[unused") else _NORMAL
    for added in backend["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _ADDED
    for index in tokenizer.all_special_ids:
        types[index] = _UNKNOWN if index == tokenizer.unk_token_id else _CONTROL
    return tokens, types


def _normalizers(backend: _Backend) -> list[_Normalizer]:
    """The normalisers of a tokenizer in their order, without the sequences that contain them."""
    first = backend.get("normalizer")
    waiting = [first] if first else []
    found = []
    while waiting:
        normalizer = waiting.pop(0)
        if normalizer["type"] == "Sequence":
            waiting = normalizer["normalizers"] + waiting
        else:
            found.append(normalizer)
    return found


def _wordpiece(writer: "GGUFWriter", backend: _Backend, tokens: list[str], types: list[int]) -> None:
    # llama.cpp marks the pieces that start a word; WordPiece marks those that do not.
    prefix = backend["model"]["continuing_subword_prefix"]
    marked = [
        token if kind != _NORMAL else token.removeprefix(prefix) if token.startswith(prefix) else _SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    twice = next((piece for piece, count in Counter(marked).items() if count > 1), None)
    if twice is not None:  # llama.cpp would abort
        first, second = [token for token, piece in zip(tokens, marked, strict=True) if piece == twice][:2]
        raise ConfigError(f"llama.cpp cannot distinguish the tokens {first!r} and {second!r}.", "--format onnx")
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(marked)
    lowercase = strip = False
    for normalizer in _normalizers(backend):
        lowers = normalizer["type"] == "Lowercase" or normalizer.get("lowercase", False)
        # BERT's normaliser strips accents if it lowers and has no setting for accents.
        strips = normalizer.get("strip_accents", normalizer["type"] == "StripAccents")
        lowercase, strip = lowercase or lowers, strip or (lowers if strips is None else strips)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", strip)


def _bpe(writer: "GGUFWriter", backend: _Backend, tokens: list[str], types: list[int]) -> None:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("roberta-bpe")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)


def _unigram(writer: "GGUFWriter", backend: _Backend, tokens: list[str], types: list[int]) -> None:
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
