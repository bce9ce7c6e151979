"""How rows are batched, and which models depend on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.config import Quantization
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.record import BY_LENGTH, Batches
from kdqat_cli.tasks.text.inference import predict_logits, tokenize
from tests.recipes import quantization

TEXTS = ["bad", "a great film and a good story , brave and warm", "the plot", "", "dull music with weak actor ."] * 3
PAPER = quantization(activation_clip=2.5, activation_scale="batch")
WAYS = [
    BY_LENGTH,
    *(Batches(size=size) for size in (4, 1)),
    *(Batches(size=size, pad_to=pad) for size, pad in ((4, 20), (4, 30), (64, 20))),
]


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    texts = Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    return tokenize(texts, tokenizer, 16)


@contextmanager
def seen_by(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Records the tokens of each forward pass."""
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(
        lambda _module, _args, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    yield seen
    handle.remove()


def one_by_one(model: PreTrainedModel, rows: Dataset) -> np.typing.NDArray[np.float32]:
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in rows["input_ids"]]
    return np.stack(logits)


def test_batches_by_hand() -> None:
    lengths = [3, 9, 5, 9, 1]
    assert list(Batches(size=2).of(lengths)) == [[1, 3], [2, 0], [4]], "the longest first, so that memory fails early"
    assert list(Batches(size=2, pad_to=16).of(lengths)) == [[0, 1], [2, 3], [4]], "in the order of the file"
    assert list(BY_LENGTH.of([])) == []


def test_rows_of_similar_length_are_padded_to_the_longest(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    with seen_by(model) as seen:
        logits = predict_logits(model, rows, tokenizer, Batches(size=4))
    lengths = sorted(rows["length"], reverse=True)
    assert [tuple(ids.shape) for ids in seen] == [(4, lengths[0]), (4, lengths[4]), (4, lengths[8]), (3, lengths[12])]
    np.testing.assert_allclose(logits, one_by_one(model, rows), rtol=1e-4, atol=1e-5)


def test_static_padding_keeps_the_order_of_the_file(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    with seen_by(model) as seen:
        logits = predict_logits(model, rows, tokenizer, Batches(size=4, pad_to=20))
    assert [tuple(ids.shape) for ids in seen] == [(4, 20), (4, 20), (4, 20), (3, 20)]
    assert tokenizer.pad_token_id == 0
    expected = [ids + [0] * (20 - len(ids)) for ids in rows["input_ids"]]
    assert torch.cat(seen).tolist() == expected
    np.testing.assert_allclose(logits, one_by_one(model, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [quantization(), quantization(activation_clip=2.5), quantization(weights="int8", activations="fp32")]
)
def test_logits_with_a_scale_per_token_do_not_depend_on_the_batches(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: Quantization
) -> None:
    quantize_model(model.double(), settings)
    first, *others = (predict_logits(model, rows, tokenizer, batches) for batches in WAYS)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-6, atol=1e-6)


def test_logits_with_a_shared_scale_depend_on_the_batches(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    quantize_model(model.double(), PAPER)
    logits = [predict_logits(model, rows, tokenizer, batches) for batches in WAYS]
    for number, one in enumerate(logits):
        for other in logits[:number]:
            assert np.abs(one - other).max() > 1e-4
    assert np.array_equal(predict_logits(model, rows, tokenizer, Batches(size=4, pad_to=20)), logits[3])


def test_a_model_in_training_is_scored_without_dropout_and_stays_in_training(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    expected = predict_logits(model, rows, tokenizer)
    model.train()
    assert np.array_equal(predict_logits(model, rows, tokenizer), expected)
    assert model.training


def test_without_rows_there_is_nothing_to_predict(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ValueError, match="no rows"):
        predict_logits(model, rows.select([]), tokenizer)


def by_pops(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """BERT's first code, as in the public code: removes tokens from the longer text, or the second of equals."""
    first, second = first[:], second[:]
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@pytest.mark.parametrize("max_length", [9, 10, 11, 12])
def test_the_first_text_may_keep_one_more_token(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    words = ["good", "great", "fine", "bad", "sad", "dull", "a", "the", "film", "plot"]
    extents = [(a, b) for a in range(1, 11) for b in range(1, 11)]
    texts, pairs = ([" ".join(words[: pair[side]]) for pair in extents] for side in (0, 1))
    rows = Dataset.from_dict({"text": texts, "pair": pairs, "label": [0] * len(extents)})
    plain, first = (tokenize(rows, tokenizer, max_length, keeps_more) for keeps_more in ("longer", "first"))
    assert plain.column_names == first.column_names
    others = 0
    for text, pair, own, cut in zip(texts, pairs, plain, first, strict=True):
        one, other = (tokenizer(side, add_special_tokens=False)["input_ids"] for side in (text, pair))
        kept = by_pops(one, other, max_length - 3)
        ids = [tokenizer.cls_token_id, *kept[0], tokenizer.sep_token_id, *kept[1], tokenizer.sep_token_id]
        assert cut["input_ids"] == ids
        assert cut["token_type_ids"] == [0] * (len(kept[0]) + 2) + [1] * (len(kept[1]) + 1)
        assert (cut["attention_mask"], cut["length"]) == ([1] * len(ids), len(ids))
        others += own["input_ids"] != ids
    odd = max_length % 2 == 0
    assert (others > 0) == odd, "the rules differ only if an odd number of tokens is left"


def test_two_long_texts_keep_63_and_62_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    long = "good " * 100
    rows = Dataset.from_dict({"text": [long], "pair": [long], "label": [0]})
    sizes = {}
    for keeps_more in ("longer", "first"):
        types = tokenize(rows, tokenizer, 128, keeps_more)[0]["token_type_ids"]
        sizes[keeps_more] = (types.count(0) - 2, types.count(1) - 1)
    assert sizes == {"longer": (62, 63), "first": (63, 62)}


def test_rows_are_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"text": [TEXTS[1]], "pair": ["the plot"], "label": [1]})
    whole, cut = (tokenize(rows, tokenizer, length)[0] for length in (64, 8))
    assert (whole["length"], cut["length"]) == (len(whole["input_ids"]), 8)
    assert len(cut["input_ids"]) == 8
    assert cut["input_ids"][-3:] == whole["input_ids"][-3:], "the longer sentence of a pair is cut"
    assert cut["labels"] == 1
