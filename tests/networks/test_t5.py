"""The classifier on T5's encoder against the encoder of transformers, for every kind of T5 checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
)

from kdqat_cli.errors import MissingInputError
from kdqat_cli.networks.loading import Source, load_encoder_config, load_weights
from tests.architectures import tiny, tokens

SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
WEIGHTS = "model.safetensors"
STOCK = """
import sys
from transformers import AutoModelForSequenceClassification
AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
"""


def saved(kind: Any, config: Any, folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = kind(config).eval()
    model.save_pretrained(folder)
    return model


def loaded(folder: Path) -> PreTrainedModel:
    source = Source.find(str(folder))
    return load_weights(source, *load_encoder_config(source, num_labels=3), new_head=True)


@torch.no_grad()
def check_states(model: PreTrainedModel, source: Any) -> None:
    """The states equal those of the source; the logits are the classifier's, of their mean over real tokens."""
    batch = tokens(model)
    out = model(**batch, output_hidden_states=True)
    expected = source.encoder(**batch).last_hidden_state
    assert torch.equal(out.hidden_states[-1], expected)
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        mean = expected[row, :length].mean(0)
        torch.testing.assert_close(out.logits[row], model.classifier(mean), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (T5ForConditionalGeneration, T5Config(**SIZES)),
        (T5ForConditionalGeneration, T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
        (T5Model, T5Config(**SIZES)),
        (T5EncoderModel, T5Config(**SIZES)),
        (MT5ForConditionalGeneration, MT5Config(**SIZES)),
    ],
    ids=["T5", "T5 1.1", "without a head", "encoder", "mT5"],
)
def test_the_encoder_of_a_checkpoint_is_loaded_completely(kind: Any, config: Any, tmp_path: Path) -> None:
    source = saved(kind, config, tmp_path)
    model = loaded(tmp_path)
    check_states(model, source)
    assert model.config.num_labels == 3
    parameters = dict(model.named_parameters())
    assert parameters.keys() == model.state_dict().keys(), "no second name of the word embedding"
    encoder = {id(parameter) for parameter in source.encoder.parameters()}
    assert len(parameters) == len(encoder) + 2


@pytest.mark.parametrize("names", [("shared",), ("shared", "encoder.embed_tokens"), ("encoder.embed_tokens",)])
def test_the_word_embedding_is_found_under_either_name(names: tuple[str, ...], tmp_path: Path) -> None:
    """Older checkpoints have both of the tied names."""
    source = saved(T5Model, T5Config(**SIZES), tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    words = state.pop("shared.weight")
    save_file(state | {f"{name}.weight": words.clone() for name in names}, tmp_path / WEIGHTS, {"format": "pt"})
    check_states(loaded(tmp_path), source)


def test_a_checkpoint_without_all_of_the_encoder_is_refused(tmp_path: Path) -> None:
    """A missing tensor is never replaced by random numbers."""
    saved(T5Model, T5Config(**SIZES), tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    del state["encoder.block.1.layer.0.SelfAttention.k.weight"]
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(MissingInputError, match=r"missing .*encoder.block.1.layer.0.SelfAttention.k.weight"):
        loaded(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    del state["shared.weight"]
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(MissingInputError, match=r"missing .*shared.weight"):
        loaded(tmp_path)


def test_a_layer_that_is_left_over_is_refused(tmp_path: Path) -> None:
    saved(T5Model, T5Config(**SIZES), tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    deeper = {
        name.replace("block.2", "block.3"): values.clone()
        for name, values in state.items()
        if "encoder.block.2" in name
    }
    save_file(state | deeper, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(MissingInputError, match=r"left over: encoder.block.3."):
        loaded(tmp_path)


@torch.no_grad()
def test_it_is_saved_and_loaded_as_itself(tmp_path: Path) -> None:
    model = tiny("kdqat-t5-encoder")
    batch = tokens(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    stock = subprocess.run([sys.executable, "-c", STOCK, tmp_path], capture_output=True, text=True, timeout=120)
    assert stock.returncode != 0, "a transformers without kdqat loaded the folder"
    assert "kdqat-t5-encoder" in stock.stderr


@pytest.mark.parametrize("module", [f"kdqat_cli.networks.{name}" for name in ("t5_model", "modules", "loading")])
def test_any_module_may_be_imported_first(module: str) -> None:
    """Importing a model file of transformers loads its auto classes, and their hook imports kdqat's modules."""
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=120)


@torch.no_grad()
def test_without_a_mask_every_token_is_used() -> None:
    model = tiny("kdqat-t5-encoder")
    batch = tokens(model, lengths=(6, 6))
    assert torch.equal(model(batch["input_ids"]).logits, model(**batch).logits)


@torch.no_grad()
def test_the_loss_fits_the_type_of_the_problem() -> None:
    model = tiny("kdqat-t5-encoder")
    batch, labels = tokens(model), torch.tensor([0, 2, 1])
    out = model(**batch, labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))
    regression = tiny("kdqat-t5-encoder", num_labels=1)
    out = regression(**batch, labels=labels.float())
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - labels).square().mean())
