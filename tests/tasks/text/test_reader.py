"""Texts of any length are read like in transformers, and in little memory."""

import random
import resource
from typing import Any, Literal

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdqat_cli.errors import MissingInputError
from kdqat_cli.record import Inputs
from kdqat_cli.tasks.text.reader import Reader, inputs_of
from tests.tokenizers import KINDS, MARKS, WORDS

PIECES = [
    *WORDS,
    "a",
    " ",
    "  ",
    "\n",
    "\t",
    "é",
    "e\u0301",
    "Σ",
    "\u200d",
    "\x00",
    "ﷺ",
    "中",
    "😀",
    "!!'s",
    "..",
    "[SEP]",
]
PIECES += ["[", "SE", "P]", "\u1100", "\u1161", "\u11a8", "x" * 30]
SIDES: list[Literal["left", "right"]] = ["right", "left"]


def text(draw: random.Random, pieces: int) -> str:
    return draw.choice(["", " ", " "]).join(draw.choices(PIECES, k=pieces))


def read(reader: Reader, one: str, other: str | None) -> tuple[list[int], list[int] | None]:
    ids, types = reader.rows([one], [other])[0]
    return list(ids), None if types is None else list(types)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_cut_gives_the_tokens_of_the_whole(kind: str, side: Literal["left", "right"]) -> None:
    """The tokens equal those of transformers, which reads the whole text; in pairs, the longer text is cut first."""
    backend = KINDS[kind]()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, truncation_side=side, model_input_names=names)
    inputs, draw = inputs_of(tokenizer), random.Random(0)
    assert inputs.truncation_side == side
    for length in (10, 11, 32, 33):
        reader = Reader(tokenizer.backend_tokenizer, length, inputs)
        for _ in range(25):
            one = text(draw, draw.choice([0, 1, 5, 60, 150]))
            other = draw.choice([None, text(draw, draw.choice([0, 3, 30, 80]))])
            whole = tokenizer([one], None if other is None else [other], truncation=True, max_length=length)
            expected = whole["input_ids"][0], whole["token_type_ids"][0]
            assert read(reader, one, other) == expected, (length, one, other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_small_part_of_a_long_text_is_read(kind: str, side: Literal["left", "right"]) -> None:
    """Texts of 800 kB. The tokenizers library needs two gigabytes to cut a pair of 20 kB each."""
    reader = Reader(KINDS[kind](), 64, Inputs(names=["input_ids"], truncation_side=side))
    long, short = " ".join(WORDS) * 6000, " ".join(WORDS) * 60
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for one, other in ((long, None), (long, short), (short, long), (long, long)):
        ids, types = read(reader, one, other)
        assert (len(ids), types) == (64, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_the_text_with_more_tokens_keeps_one_more() -> None:
    """If the number is odd. Here the shorter text has more tokens, and neither text fits."""
    tokenizer = KINDS["wordpiece"]()
    wide, narrow = "x" * 30 + " ", "a "
    for one, other in ((narrow * 300, wide * 250), (wide * 250, narrow * 300), (narrow * 300, narrow * 300)):
        reader = Reader(tokenizer, 20, Inputs(names=["input_ids", "token_type_ids"]))
        tokenizer.enable_truncation(20)
        whole = tokenizer.encode(one, other)
        assert read(reader, one, other) == (whole.ids, whole.type_ids)


def test_a_tokenizer_of_unknown_parts_gets_the_whole_text() -> None:
    """A pattern may look ahead by any distance: here it depends on a full stop at the end of the text."""
    tokenizer = KINDS["bpe"]()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"a(?=.*\.$)"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    reader = Reader(tokenizer, 16, Inputs(names=["input_ids"]))
    long = "calm " * 2000
    tokenizer.enable_truncation(16)
    whole = [tokenizer.encode(one).ids for one in (long, long + ".")]
    assert [read(reader, one, None)[0] for one in (long, long + ".")] == whole


def test_names_of_special_tokens_are_tokens_or_text_as_recorded() -> None:
    tokenizer = KINDS["wordpiece"]()
    for split in (False, True):
        reader = Reader(tokenizer, 16, Inputs(names=["input_ids"], split_special_tokens=split))
        found = [tokenizer.id_to_token(number) for number in read(reader, "sad [SEP] sad", None)[0]]
        assert (found[2] == "[SEP]") != split


def test_a_tokenizer_without_its_unknown_token_is_one_sentence() -> None:
    tokenizer = KINDS["wordpiece"]()
    tokenizer.model.unk_token = "[GONE]"
    with pytest.raises(MissingInputError, match=r"The tokenizer fails on a text: .*UNK"):
        read(Reader(tokenizer, 16, Inputs(names=["input_ids"])), "%", None)


def test_a_tokenizer_that_does_not_fit_the_model_is_reported() -> None:
    bert: dict[str, Any] = {"model_type": "bert", "vocab_size": 1000, "type_vocab_size": 1}
    both = Reader(KINDS["wordpiece"](), 16, Inputs(names=["input_ids", "token_type_ids"]))
    assert both.fault(bert, pairs=False) is None
    for pairs in (True, None):
        assert both.fault(bert, pairs) == "It has the token type 1, but the model has 1 types."
        assert both.fault(bert | {"type_vocab_size": 2}, pairs) is None
        assert both.fault({"model_type": "distilbert", "vocab_size": 1000}, pairs) is None, "it reads no token"
    assert Reader(KINDS["wordpiece"](), 16, Inputs(names=["input_ids"])).fault(bert, True) is None
    known = len(MARKS)
    assert "token id" in str(both.fault(bert | {"vocab_size": known}, False))
