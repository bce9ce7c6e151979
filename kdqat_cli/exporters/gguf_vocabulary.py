"""A tokenizer in a GGUF file: WordPiece, byte-level BPE or Unigram, as llama.cpp's `bert`, `gpt2` and `t5`."""

import base64
import json
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError

_SPACE = "\u2581"  # marks the start of a word
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5  # llama.cpp's token types


def write_vocabulary(writer: Any, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Writes tokens and special tokens.

    Args:
        writer: a gguf.GGUFWriter.
        tokenizer: a fast tokenizer.
        config: the model's, whose number of word embeddings the tokens are filled up to.

    Raises:
        ConfigError: a kind of tokenizer that llama.cpp does not have.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = backend["model"]["type"]
    if kind not in _WRITERS:
        raise ConfigError(f"llama.cpp has no tokenizer of the kind {kind}.", "--format onnx")
    tokens = [f"[PAD{index}]" for index in range(config.vocab_size)]
    types = [_UNUSED] * config.vocab_size
    for token, index in tokenizer.get_vocab().items():
        tokens[index] = token
        types[index] = _UNUSED if token.startswith("[unused") else _NORMAL
    for index in tokenizer.all_special_ids:
        types[index] = _UNKNOWN if index == tokenizer.unk_token_id else _CONTROL
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


def _wordpiece(writer: Any, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    # llama.cpp marks the pieces that start a word; WordPiece those that do not.
    marked = [
        token if kind != _NORMAL else token.removeprefix("##") if token.startswith("##") else _SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(marked)
    normalizer = backend.get("normalizer") or {}
    lowercase = bool(normalizer.get("lowercase", False))
    strip = normalizer.get("strip_accents")
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", lowercase if strip is None else bool(strip))


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
    for normalizer in [backend.get("normalizer") or {}, *(backend.get("normalizer") or {}).get("normalizers", [])]:
        if normalizer.get("precompiled_charsmap"):
            writer.add_precompiled_charsmap(base64.b64decode(normalizer["precompiled_charsmap"]))


_WRITERS = {"WordPiece": _wordpiece, "BPE": _bpe, "Unigram": _unigram}
