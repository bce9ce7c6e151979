"""Texts → token ids, with the tokenizers library alone. Training, evaluation and serving all read texts in this way.

A long text is cut before it is tokenised. The ids stay the same, but memory and time become smaller. The part that is
kept is the shortest beginning of 2L, 4L, 8L, … characters (L is the row length in tokens) that has at least L final
tokens, that is, tokens that cannot depend on the rest of the text. A tokenizer normalises a text and splits it into
pieces (words); then its model reads each piece separately. With the normalisers and splitters named below, the rest of
a text can change at most the last `_MARGIN` pieces of the beginning, and pieces that one added token or one replaced
string can span. The tokens of all earlier pieces are final. A tokenizer with any other part (for example a splitter
with its own pattern) gets the whole text. If texts are truncated on the left, an end of the text is kept instead. It
begins at a space, where every splitter starts a new piece.

If a pair is too long, the tokenizers library cuts the longer text first. If both are too long and the number of tokens
is odd, the text with more tokens keeps one more. So kdqat finds out which text has more tokens; if both have more than
2^20 characters, it compares only the tokens of that many. With `keeps_more: first` the first text keeps one more, as in
the public code of Kim et al. (2022).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from tokenizers import Encoding, Tokenizer

from kdqat_cli.config import KeepsMoreName
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import refuse_odd_files
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.family import Config
from kdqat_cli.record import InputName, Inputs, Record

_NORMALISERS = {"BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"}
_NORMALISERS |= {"Prepend", "Strip", "StripAccents"}
_SPLITTERS = {"BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation"}
_SPLITTERS |= {"UnicodeScripts", "Whitespace", "WhitespaceSplit"}
_MARGIN = 3
"""Number of pieces that the rest may change: the piece that is cut, and a letter with its marks, which may be two."""
_COUNTED = 2**20  # characters
_LARGEST_FILE = 2**28  # bytes; a vocabulary of 250,000 tokens takes a tenth
TOKENIZER_FILE = "tokenizer.json"


def inputs_of(tokenizer: Any) -> Inputs:
    """The inputs that a tokenizer of transformers makes for its model."""
    return Inputs(
        names=[name for name in get_args(InputName) if name in tokenizer.model_input_names],
        truncation_side=tokenizer.truncation_side,
        split_special_tokens=bool(tokenizer.split_special_tokens),
    )


class Reader:
    """A tokenizer that reads texts, or pairs of texts, for one model."""

    def __init__(
        self, tokenizer: Tokenizer, max_length: int, inputs: Inputs, keeps_more: KeepsMoreName = "longer"
    ) -> None:
        """Takes a tokenizer. Each call of `rows` sets its truncation and padding.

        Args:
            tokenizer: the model's.
            max_length: largest number of tokens of a row.
            inputs: names of the model's inputs, and the side on which rows are cut.
            keeps_more: which text of a pair keeps one more token if both are cut to an odd number of tokens together:
                `longer`, as the tokenizers library does (of equally long texts the second), or `first`.
        """
        self._tokenizer = tokenizer
        self._length = max_length
        self._inputs = inputs
        self._first_keeps_more = keeps_more == "first"
        self._types = "token_type_ids" in inputs.names
        self._cut = _Cut(tokenizer, inputs.truncation_side == "left")
        self._room = max_length - tokenizer.num_special_tokens_to_add(True)

    def rows(self, texts: Sequence[str], pairs: Sequence[str | None]) -> list[Row]:
        """Token ids and types of each text, or of each text and its pair.

        Args:
            texts: valid Unicode.
            pairs: the second text of each row; None: rows are single texts.

        Raises:
            MissingInputError: the tokenizer fails, because it is damaged.
        """
        try:
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self._tokenizer.encode_special_tokens = self._inputs.split_special_tokens
            both = list(zip(texts, pairs, strict=True))
            own = [self._cut_pair(*row) if self._first_keeps_more and row[1] is not None else None for row in both]
            given = [self._short(*row) for row, done in zip(both, own, strict=True) if done is None]
            self._tokenizer.enable_truncation(self._length, direction=self._inputs.truncation_side)
            others = iter(self._tokenizer.encode_batch(given))
            encoded = [next(others) if done is None else done for done in own]
        except Exception as error:  # tokenizers raises nothing more special
            raise MissingInputError(f"The tokenizer fails on a text: {error}.") from error
        return [(row.ids, row.type_ids if self._types else None) for row in encoded]

    def fault(self, config: Config, pairs: bool | None) -> str | None:
        """Why rows do not fit a model, as a sentence; None: they fit.

        Args:
            config: configuration of the model, as in config.json.
            pairs: whether its rows are pairs; None: not known.
        """
        wanted = [None] if pairs is False else ["a"] if pairs else [None, "a"]
        rows = self.rows(["a"] * len(wanted), wanted)
        # The tokens at the beginning and the end of a row are listed outside of the vocabulary.
        known_ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        highest = max((*known_ids, *(token for ids, _ in rows for token in ids)), default=0)
        if highest >= config["vocab_size"]:
            return f"It has the token id {highest}, but the model has {config['vocab_size']} tokens."
        highest = max((kind for _, kinds in rows for kind in kinds or []), default=0)
        known = configured(config).type_count(config)
        if known is not None and highest >= known:
            return f"It has the token type {highest}, but the model has {known} types."
        return None

    def _cut_pair(self, text: str, pair: str | None) -> Encoding:
        """Cuts a pair so that the first text keeps one more token: long texts keep ⌈room / 2⌉ and ⌊room / 2⌋."""
        parts = (self._cut.short(one, self._length).text for one in (text, pair or ""))
        first, second = (self._tokenizer.encode(part, add_special_tokens=False) for part in parts)
        kept = min(len(second), max(self._room // 2, self._room - len(first)))
        second.truncate(kept, direction=self._inputs.truncation_side)
        first.truncate(min(len(first), self._room - kept), direction=self._inputs.truncation_side)
        return self._tokenizer.post_process(first, second)

    def _short(self, text: str, pair: str | None) -> str | tuple[str, str]:
        enough = 4 * self._length  # characters: texts up to this length are not cut
        if pair is None:
            return text if len(text) <= enough else self._cut.short(text, self._length).text
        if max(len(text), len(pair)) <= enough:
            return text, pair
        first, second = self._cut.short(text, self._length), self._cut.short(pair, self._length)
        if self._room % 2 and not (first.whole and second.whole):
            more = self._cut.more(text, pair)
            if more:
                first = self._cut.short(text, max(self._length, second.tokens + 1))
            else:
                second = self._cut.short(pair, max(self._length, first.tokens))
            # A part may have more tokens than the whole text, in which its last pieces can become fewer tokens.
            if more != (first.tokens > second.tokens):
                return text, pair
        return first.text, second.text


def packed_reader(packed: Path, record: Record, config: Config) -> Reader:
    """The reader of texts for a packed model, with the tokenizer beside its file.

    Args:
        packed: the packed file.
        record: record of the model. That of an earlier version does not name the model's inputs; then transformers is
            asked.
        config: configuration of the model.

    Raises:
        MissingInputError: the tokenizer is not the one that the model was packed with, or does not fit the model.
    """
    path = packed.with_name(TOKENIZER_FILE)
    refuse_odd_files(path.parent)
    if not path.is_file() or path.stat().st_size > _LARGEST_FILE or _digest(path) != record.tokenizer:
        raise MissingInputError(f"{path} is not the tokenizer that {packed} was packed with.", "kdqat export")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more special
        raise MissingInputError(f"{path} is damaged: {error}.", "kdqat export") from error
    keeps_more = record.batches.keeps_more
    reader = Reader(tokenizer, record.row_length, record.inputs or _unrecorded_inputs(path.parent), keeps_more)
    if fault := reader.fault(config, record.pairs):
        raise MissingInputError(f"{path} does not fit the model: {fault}", "kdqat export")
    return reader


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingInputError(f"{path} cannot be read: {error.strerror}.") from error


def _unrecorded_inputs(folder: Path) -> Inputs:
    from transformers import AutoTokenizer

    try:
        return inputs_of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:
        raise MissingInputError(f"The tokenizer of {folder} could not be loaded: {error}", "kdqat export") from error


class _Part(NamedTuple):
    """A part of a text, with its tokens, the number of final tokens, and whether the part is the whole text."""

    text: str
    tokens: int
    final: int
    whole: bool


class _Cut:
    """Cuts texts for one tokenizer, whose truncation must be off."""

    def __init__(self, tokenizer: Tokenizer, left: bool) -> None:
        self._tokenizer = tokenizer
        self._left = left
        self._margin = _margin(tokenizer, left)

    def short(self, text: str, wanted: int) -> _Part:
        """The shortest part that has `wanted` final tokens."""
        size = 2 * wanted
        part = self._part(text, size)
        while not part.whole and part.final < wanted:
            size *= 2
            part = self._part(text, size)
        return part

    def more(self, text: str, other: str) -> bool:
        """Whether a text has more tokens than another."""
        size = _COUNTED // 256
        while True:
            one, two = self._part(text, size), self._part(other, size)
            if one.whole and two.whole:
                return one.tokens > two.tokens
            if two.whole and one.final > two.tokens:
                return True
            if one.whole and two.final >= one.tokens:
                return False
            if size >= _COUNTED and not (one.whole or two.whole):
                return one.final > two.final
            size *= 4

    def _part(self, text: str, size: int) -> _Part:
        part = text if self._margin is None else text[-size:] if self._left else text[:size]
        if self._left and len(part) < len(text):
            part = part[part.index(" ") :] if " " in part else text
        encoded = self._tokenizer.encode(part, add_special_tokens=False)
        tokens = len(encoded.ids)
        if self._margin is None or len(part) == len(text):
            return _Part(text, tokens, tokens, True)
        pieces = [piece for piece in encoded.word_ids if piece is not None]
        last = max(pieces, default=0)
        final = sum(piece > self._margin if self._left else piece < last - self._margin for piece in pieces)
        return _Part(part, tokens, final, False)


def _margin(tokenizer: Tokenizer, left: bool) -> int | None:
    """The number of pieces at a cut whose tokens are not final; None: not known, so texts must not be cut."""
    normaliser, splitter = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
    strings = [str(token.content) for token in tokenizer.get_added_tokens_decoder().values()]

    def local(known: set[str]) -> Callable[[dict[str, Any]], bool]:
        def test(part: dict[str, Any]) -> bool:
            pattern = part.get("pattern", {})
            if part["type"] in ("Replace", "Split") and "String" in pattern:
                strings.append(pattern["String"])
                return True
            # A run of spaces becomes one space, so the rest of the text can change only the last run.
            return part["type"] in known or (part["type"] == "Replace" and pattern == {"Regex": " {2,}"})

        return test

    if not (all(map(local(_NORMALISERS), normaliser)) and all(map(local(_SPLITTERS), splitter))):
        return None
    if left and any(" " in string for string in strings if string != " "):
        return None  # a space inside such a string is not the beginning of a piece
    longest = max(map(len, [*strings, *map(_normalised(tokenizer), strings)]), default=0)
    return _MARGIN + longest


def _normalised(tokenizer: Tokenizer) -> Callable[[str], str]:
    normaliser = tokenizer.normalizer
    return (lambda text: text) if normaliser is None else normaliser.normalize_str


def _state(part: Any) -> list[dict[str, Any]]:
    """The settings of a normaliser or splitter, or of each member of a sequence; None has no settings."""
    if part is None:
        return []
    todo, found = [json.loads(part.__getstate__())], []
    while todo:
        state = todo.pop()
        if state["type"] == "Sequence":
            todo += state.get("normalizers", state.get("pretokenizers", []))
        else:
            found.append(state)
    return found
