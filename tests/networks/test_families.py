"""The module paths of families, and properties of every family, on tiny models."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, T5Config

import kdqat_cli  # noqa: F401 - its import is what registers the packed format
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.modules import classifier_of, family_of, layers_of, module_at
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.record import Record
from tests.architectures import HIDDEN, LABELS, LAYERS, tiny, tokens
from tests.recipes import quantization

QUANTIZATION = quantization()
_BERT_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
LINEARS = {
    "distilbert": (
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ),
    "kdqat-t5-encoder": (
        "layer.0.SelfAttention.q",
        "layer.0.SelfAttention.k",
        "layer.0.SelfAttention.v",
        "layer.0.SelfAttention.o",
        "layer.1.DenseReluDense.wi_0",
        "layer.1.DenseReluDense.wi_1",
        "layer.1.DenseReluDense.wo",
    ),
    "mpnet": (
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
        "intermediate.dense",
        "output.dense",
    ),
}


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


def test_the_required_architectures_are_known() -> None:
    assert {"bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "kdqat-t5-encoder"} <= FAMILIES.keys()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_path_leads_to_a_module(architecture: str) -> None:
    model = tiny(architecture)
    family = family_of(model)
    layers = layers_of(model)
    assert len(layers) == LAYERS
    assert module_at(model.base_model, family.words) is model.get_input_embeddings()
    for layer in layers:
        attention = module_at(layer, family.attention)
        linears = [name for name, module in attention.named_children() if isinstance(module, nn.Linear)]
        assert [name[0] for name in linears][:3] == ["q", "k", "v"]
        mha = module_at(layer, family.mha)
        assert isinstance(mha, nn.Linear)
        assert mha.out_features == HIDDEN
        norms = [x for x in module_at(layer, family.attention_output).modules() if "Norm" in type(x).__name__]
        assert len(norms) == 1
    head = classifier_of(model)
    assert head.out_features == LABELS
    assert all(head is not module for module in model.base_model.modules())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_quantising_replaces_only_the_linears_and_word_embedding_of_the_encoder(architecture: str) -> None:
    model = tiny(architecture)
    names = {module: name for name, module in model.named_modules()}
    plain = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    words = names[model.get_input_embeddings()]
    per_layer = LINEARS.get(architecture, _BERT_LINEARS)
    expected = {f"{names[layer]}.{linear}" for layer in layers_of(model) for linear in per_layer}
    pooler = {name for name in plain if name.endswith("pooler.dense")}
    before = {name: values.clone() for name, values in model.state_dict().items()}

    quantize_model(model, QUANTIZATION)

    layers = quantized_layers(model)
    linears = {name for name, layer in layers.items() if isinstance(layer, QuantizedLinear)}
    assert linears == expected | pooler
    assert [name for name, layer in layers.items() if isinstance(layer, QuantizedEmbedding)] == [words]
    kept = {name for name, module in model.named_modules() if type(module) is nn.Embedding}
    assert kept == embeddings - {words}
    assert kept, "at least the positions"
    head = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert head == plain - linears
    assert all(not name.startswith(names[model.base_model] + ".") for name in head)
    assert classifier_of(model).out_features == LABELS
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items()), "latent weights"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_quantised_model_ignores_padding(architecture: str) -> None:
    model = tiny(architecture).double()
    quantize_model(model, QUANTIZATION)
    batch = tokens(model)
    expected = logits(model, batch)
    longer = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 5), value=model.config.pad_token_id),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    torch.testing.assert_close(logits(model, longer), expected, rtol=0, atol=1e-9)
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = {name: values[row : row + 1, :length] for name, values in batch.items()}
        torch.testing.assert_close(logits(model, alone)[0], expected[row], rtol=0, atol=1e-9)
    assert expected.std(0).min() > 1e-3, "the logits depend on the tokens"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_masked_tokens_are_ignored(architecture: str) -> None:
    """Also in the middle of a row. An attention function without its mask function would read every token."""
    model = tiny(architecture).double()
    quantize_model(model, QUANTIZATION)
    batch = tokens(model)
    full = logits(model, batch)
    batch["attention_mask"][0, 3:5] = 0
    masked = logits(model, batch)
    batch["input_ids"][0, 3:5] = (batch["input_ids"][0, 3:5] + 20) % 50 + 5
    torch.testing.assert_close(logits(model, batch), masked, rtol=0, atol=1e-9)
    assert (full - masked)[0].abs().max() > 1e-4, "real tokens have an effect"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_activations_of_the_attention_are_quantised(architecture: str) -> None:
    """The quantiser gets Q, K, V and the probabilities of every layer. A module with its own product would not."""
    model = tiny(architecture)
    quantize_model(model, QUANTIZATION)
    batch = tokens(model)
    before = logits(model, batch)
    for layer in layers_of(model):
        attention = module_at(layer, family_of(model).attention)
        quantizer = attention.quantizer
        attention.quantizer = None
        assert (logits(model, batch) - before).abs().max() > 1e-6
        attention.quantizer = quantizer
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_training_reaches_every_latent_weight(architecture: str) -> None:
    model = tiny(architecture).train()
    quantize_model(model, QUANTIZATION)
    model(**tokens(model), labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, layer in quantized_layers(model).items():
        assert layer.weight.grad is not None, name
        assert layer.weight.grad.isfinite().all(), name
        assert layer.weight.grad.any(), name


@pytest.mark.parametrize("architecture", FAMILIES)
def test_packing_and_loading_changes_no_bit(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    quantize_model(model, QUANTIZATION)
    batch = tokens(model)
    before = logits(model, batch)
    freeze(model)
    assert torch.equal(logits(model, batch), before)
    save_packed(model, tmp_path, Record(quantization=QUANTIZATION))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, batch), before)
    assert sum(x.numel() for x in loaded.parameters()) == sum(x.numel() for x in model.parameters())
    assert not any(layer.weight.requires_grad for layer in quantized_layers(loaded).values())


def test_an_unknown_architecture_names_the_known_ones() -> None:
    config = T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ConfigError, match="does not know the architecture 't5'") as caught:
        quantize_model(model, QUANTIZATION)
    for name in [*FAMILIES.keys() - {"kdqat-t5-encoder"}, "the encoder alone of t5 and mt5"]:
        assert name in caught.value.sentence
