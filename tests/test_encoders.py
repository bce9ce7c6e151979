"""Where architectures keep their modules, on tiny models of each."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, T5Config
from transformers.models.auto.configuration_auto import AutoConfig

from kdqat_cli.config import Quantization
from kdqat_cli.encoders import ENCODERS, classifier_of, encoder_of, layers_of, module_at
from kdqat_cli.errors import ConfigError
from kdqat_cli.quantization.layers import TernaryEmbedding, TernaryLinear, ternary_layers
from kdqat_cli.quantization.model import quantize_model

QUANTIZATION = Quantization(weights="ternary", weight_clip=2.5, activations=8, activation_clip=None)
LAYERS = 2


def tiny(architecture: str, **options: int) -> PreTrainedModel:
    config = AutoConfig.for_model(
        architecture,
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=40,
        num_labels=3,
        **({"embedding_size": 32} if architecture == "electra" else {}),
        **options,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def test_the_issue_s_architectures_are_known() -> None:
    assert {"bert", "roberta", "electra"} <= ENCODERS.keys()


@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_path_leads_to_a_module(architecture: str) -> None:
    model = tiny(architecture)
    encoder = encoder_of(model)
    layers = layers_of(model)
    assert len(layers) == LAYERS
    assert module_at(model.base_model, encoder.word_embeddings) is model.get_input_embeddings()
    for layer in layers:
        assert isinstance(module_at(layer, encoder.attention).query, nn.Linear)
        assert isinstance(module_at(layer, encoder.attention_output).LayerNorm, nn.LayerNorm)
    head = classifier_of(model)
    assert head.out_features == 3
    assert all(head is not module for module in model.base_model.modules())


@pytest.mark.parametrize("architecture", ENCODERS)
def test_quantising_replaces_the_encoder_s_linears_and_words_alone(architecture: str) -> None:
    model = tiny(architecture)
    prefix = model.base_model_prefix + "."
    plain = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    words = prefix + "embeddings.word_embeddings"
    quantize_model(model, QUANTIZATION)
    layers = ternary_layers(model)
    linears = {name for name, layer in layers.items() if isinstance(layer, TernaryLinear)}
    assert linears == {name for name in plain if name.startswith(prefix)}
    per_layer = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    for index in range(LAYERS):
        for name in per_layer:
            assert any(
                linear.startswith(f"{prefix}encoder.layer.{index}.") and linear.endswith(name) for linear in linears
            )
    assert len(linears) == 6 * LAYERS + (f"{prefix}pooler.dense" in plain)
    assert [name for name, layer in layers.items() if isinstance(layer, TernaryEmbedding)] == [words]
    kept = {name for name, module in model.named_modules() if type(module) is nn.Embedding}
    assert kept == embeddings - {words}
    assert kept, "position embeddings at least"
    head = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert head == {name for name in plain if not name.startswith(prefix)}
    assert classifier_of(model).out_features == 3


@pytest.mark.parametrize("architecture", ENCODERS)
def test_a_quantised_model_does_not_see_its_padding(architecture: str) -> None:
    model = tiny(architecture).double()
    quantize_model(model, QUANTIZATION)
    ids = torch.randint(5, 60, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.int64)
    padding = model.config.pad_token_id
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        longer = nn.functional.pad(ids, (0, 5), value=padding)
        padded = model(input_ids=longer, attention_mask=nn.functional.pad(mask, (0, 5))).logits
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-9)


def test_an_unknown_architecture_names_the_known_ones() -> None:
    config = T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ConfigError, match="does not know the architecture 't5'") as caught:
        quantize_model(model, QUANTIZATION)
    for name in ENCODERS:
        assert name in caught.value.sentence
