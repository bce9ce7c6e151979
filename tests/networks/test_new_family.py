"""A new family, added in this file alone, is trained, captured, packed and served like kdqat's own families."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import kdqat_cli  # noqa: F401 - its import is what registers the packed format
from kdqat_cli.engine.engine import Engine
from kdqat_cli.errors import ConfigError
from kdqat_cli.native.library import kernels
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.families import FAMILIES, register
from kdqat_cli.networks.family import Family
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.loading import Source, load_encoder_config, load_weights
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.networks.roberta import roberta_like
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.record import Record
from tests.architectures import LAYERS, tiny, tokens
from tests.recipes import quantization

NAME = "data2vec-text"
DATA2VEC = roberta_like(NAME, "data2vec_text")


@pytest.fixture(autouse=True)
def family() -> Iterator[Family]:
    register(DATA2VEC)
    yield DATA2VEC
    del FAMILIES[NAME]


@torch.no_grad()
def test_it_is_captured() -> None:
    model = tiny(NAME)
    batch = tokens(model)
    expected = model(**batch, output_hidden_states=True)
    use_kdqat_attention(model)
    with capture(model, frozenset(("hidden", "scores", "outputs", "mha"))) as captures:
        logits = model(**batch).logits
    torch.testing.assert_close(logits, expected.logits)
    for ours, theirs in zip(captures.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(captures.scores) == len(captures.mha) == LAYERS
    first = model.base_model.encoder.layer[0].attention.output
    output = first.LayerNorm(captures.hidden[0] + captures.mha[0])
    torch.testing.assert_close(captures.outputs[0], output)


def test_an_encoder_gets_a_new_head(tmp_path: Path) -> None:
    tiny(NAME).base_model.save_pretrained(tmp_path)
    source = Source.find(str(tmp_path))
    model = load_weights(source, *load_encoder_config(source, num_labels=2), new_head=True)
    assert model.config.num_labels == 2


@pytest.mark.skipif(not kernels(), reason="the native library was not built")
@torch.no_grad()
def test_it_is_packed_and_served(tmp_path: Path) -> None:
    model, settings = tiny(NAME), quantization(weight_clip=None)
    quantize_model(model, settings)
    assert len(quantized_layers(model)) == 6 * LAYERS + 1
    freeze(model)
    batch = tokens(model)
    expected = model(**batch).logits
    save_packed(model, tmp_path, Record(quantization=settings))
    assert torch.equal(AutoModelForSequenceClassification.from_pretrained(tmp_path)(**batch).logits, expected)

    engine = Engine.load(tmp_path, 1)
    assert engine.remark is None, "the library computes it"
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [(ids[:length].tolist(), None) for ids, length in zip(batch["input_ids"], lengths, strict=True)]
    np.testing.assert_allclose(engine.logits(rows), expected.numpy(), atol=0.01 * expected.abs().max())
    with pytest.raises(ValueError, match="too long"):
        engine.logits([([5] * (DATA2VEC.longest_row(engine.config) or 0) + [5], None)])


def test_a_model_type_has_one_family() -> None:
    with pytest.raises(ConfigError, match="already"):
        register(DATA2VEC)
