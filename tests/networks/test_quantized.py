"""A whole classifier does not depend on padding or batch mates, and does not change when it is frozen."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.config import Quantization
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from tests.quantizers.reference import Array, eight_bit, softmax, ternary
from tests.recipes import quantization

Batch = dict[str, Tensor]
TERNARY = quantization()
CLIPPED = quantization(activation_clip=2.5)
FULL_ACTIVATIONS = quantization(weight_clip=None, activations="fp32")
FOUR_BIT, EIGHT_BIT = quantization(weights="int4"), quantization(weights="int8")
PAPER = quantization(activation_clip=2.5, activation_scale="batch")
ALONE = {"8 bit": TERNARY, "8 bit clipped": CLIPPED, "FP32": FULL_ACTIVATIONS, "int4": FOUR_BIT, "int8": EIGHT_BIT}
"""The settings with which the logits of a row depend only on the row."""


def padded(batch: Batch, extra: int, garbage: int = 0) -> Batch:
    ids = nn.functional.pad(batch["input_ids"], (0, extra), value=garbage)
    return {
        "input_ids": ids,
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, extra)),
        "token_type_ids": nn.functional.pad(batch["token_type_ids"], (0, extra)),
    }


def row(batch: Batch, index: int) -> Batch:
    length = int(batch["attention_mask"][index].sum())
    return {name: values[index : index + 1, :length] for name, values in batch.items()}


@torch.no_grad()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


@pytest.fixture(params=ALONE.values(), ids=list(ALONE))
def quantized(request: pytest.FixtureRequest, model: PreTrainedModel) -> PreTrainedModel:
    """In float64, in which an order of summation changes less than 1e-9, and a real dependence more."""
    quantize_model(model, request.param)
    out: PreTrainedModel = model.double()
    return out


def test_the_logits_depend_on_the_tokens(quantized: PreTrainedModel, batch: Batch) -> None:
    """Otherwise a model that ignores its input would pass the invariance tests below."""
    assert logits(quantized, batch).std(0).min() > 1e-2


@pytest.mark.parametrize("extra", [1, 7, 30])
def test_padding_changes_nothing(quantized: PreTrainedModel, batch: Batch, extra: int) -> None:
    expected = logits(quantized, batch)
    torch.testing.assert_close(logits(quantized, padded(batch, extra)), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logits(quantized, padded(batch, extra, 99)), expected, rtol=0, atol=1e-9)


def test_batch_mates_change_nothing(quantized: PreTrainedModel, batch: Batch) -> None:
    together = logits(quantized, batch)
    for index in range(len(together)):
        alone = logits(quantized, row(batch, index))
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-9)


def test_what_is_masked_is_not_read(quantized: PreTrainedModel, batch: Batch) -> None:
    """Also in the middle of a row: an attention function without its mask function sees every token."""
    masked = {name: values.clone() for name, values in batch.items()}
    masked["attention_mask"][0, 4:7] = 0
    other = {name: values.clone() for name, values in masked.items()}
    other["input_ids"][0, 4:7] = 77
    expected = logits(quantized, masked)
    torch.testing.assert_close(logits(quantized, other), expected, rtol=0, atol=1e-9)
    assert (logits(quantized, batch)[0] - expected[0]).abs().max() > 1e-4, "real tokens have an effect"


@pytest.mark.parametrize("shared", [False, True])
def test_a_scale_of_the_batch_makes_rows_depend_on_each_other(
    model: PreTrainedModel, batch: Batch, shared: bool
) -> None:
    """The public code has this property; the scale per token removes it."""
    quantize_model(model.double(), PAPER if shared else CLIPPED)
    together = logits(model, batch)
    changes = [(logits(model, row(batch, index))[0] - together[index]).abs().max() for index in range(len(together))]
    changes.append((logits(model, padded(batch, 7, 99)) - together).abs().max())
    if shared:
        assert min(changes) > 1e-5
    else:
        assert max(changes) < 1e-9


@pytest.mark.parametrize("settings", [*ALONE.values(), PAPER], ids=[*ALONE, "paper"])
def test_freezing_changes_no_bit_of_the_logits(model: PreTrainedModel, batch: Batch, settings: Quantization) -> None:
    quantize_model(model, settings)
    before = logits(model, batch)
    freeze(model)
    assert torch.equal(logits(model, batch), before)


def test_a_frozen_state_loads_into_a_plain_model_and_back(model: PreTrainedModel, batch: Batch) -> None:
    names = list(model.state_dict())
    quantize_model(model, TERNARY)
    assert list(model.state_dict()) == names
    freeze(model)
    expected = logits(model, batch)
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    quantize_model(plain, TERNARY)
    codes = {name: layer.codes() for name, layer in quantized_layers(model).items()}
    for name, layer in quantized_layers(plain).items():
        layer.freeze(codes[name])
    assert torch.equal(logits(plain.eval(), batch), expected)
    assert not any(layer.weight.requires_grad for layer in quantized_layers(plain).values())


def test_quantising_replaces_weights_not_the_rest(model: PreTrainedModel) -> None:
    before = {name: values.clone() for name, values in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    quantize_model(model, TERNARY)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items()), "latent weights"
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    layers = quantized_layers(model)
    assert sum(isinstance(layer, QuantizedLinear) for layer in layers.values()) == 3 * 6 + 1
    assert [name for name, layer in layers.items() if isinstance(layer, QuantizedEmbedding)] == [
        "bert.embeddings.word_embeddings"
    ]


def test_attention_inside_the_model_by_hand(model: PreTrainedModel, batch: Batch) -> None:
    """In every layer: 8-bit input, Q, K, probabilities and V; one scale per matrix W; softmax over real keys."""
    quantize_model(model.double(), TERNARY)
    seen: list[tuple[Array, Array]] = []
    for layer in model.bert.encoder.layer:
        layer.attention.self.register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0].numpy(), output[0].numpy()))
        )
    logits(model, batch)
    lengths = batch["attention_mask"].sum(1).tolist()
    for layer, (inputs, context) in zip(model.bert.encoder.layer, seen, strict=True):
        for row, length in enumerate(lengths):
            expected = _context(inputs[row, :length], layer.attention.self)
            np.testing.assert_allclose(context[row, :length], expected, rtol=1e-9, atol=1e-12)


def test_attention_with_a_scale_of_the_batch_by_hand(model: PreTrainedModel, batch: Batch) -> None:
    """Input, Q, K, V and probabilities have one scale each for all rows and heads, including padded queries."""
    quantize_model(model.double(), PAPER)
    seen: list[tuple[Array, Array]] = []
    for layer in model.bert.encoder.layer:
        layer.attention.self.register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0].numpy(), output[0].numpy()))
        )
    logits(model, batch)
    real = batch["attention_mask"].numpy().astype(bool)
    for layer, (inputs, context) in zip(model.bert.encoder.layer, seen, strict=True):
        rounded = eight_bit(inputs, 2.5, shared=True)
        queries, keys, values = (
            eight_bit(_projected(rounded, layer.attention.self, name), 2.5, shared=True)
            for name in ("query", "key", "value")
        )
        chances, size = np.zeros((len(real), 4, real.shape[1], real.shape[1])), 8
        for sentence, head, token in np.ndindex(chances.shape[:3]):
            part = slice(size * head, size * (head + 1))
            products = keys[sentence, real[sentence], part] @ queries[sentence, token, part]
            chances[sentence, head, token, real[sentence]] = softmax(products / np.sqrt(size))
        chances = eight_bit(chances, 2.5, shared=True)
        heads = [chances[:, head] @ values[:, :, size * head : size * (head + 1)] for head in range(4)]
        np.testing.assert_allclose(context, np.concatenate(heads, axis=-1), rtol=1e-9, atol=1e-12)


def _projected(rounded: Array, module: nn.Module, name: str) -> Array:
    weight, bias = (values.numpy() for values in module.get_submodule(name).state_dict().values())
    projected: Array = rounded @ ternary(weight, rowwise=False).T + bias
    return projected


def _context(inputs: Array, module: nn.Module) -> Array:
    rounded = eight_bit(inputs)
    projected = [_projected(rounded, module, name) for name in ("query", "key", "value")]
    size, contexts = 8, []
    for start in range(0, 32, size):
        query, key, value = (eight_bit(part[:, start : start + size]) for part in projected)
        chances = np.stack([softmax(row) for row in query @ key.T / np.sqrt(size)])
        contexts.append(eight_bit(chances) @ value)
    return np.concatenate(contexts, axis=1)


def test_activations_really_are_quantised(model: PreTrainedModel, batch: Batch) -> None:
    """The student with 8-bit activations is close to the one with full precision, but not equal."""
    quantize_model(model, TERNARY)
    eight = logits(model, batch)
    for module in model.modules():
        if getattr(module, "quantizer", None) is not None:
            module.quantizer = None
    full = logits(model, batch)
    difference = (eight - full).abs().max()
    assert 1e-6 < difference < 0.2 * full.abs().max()


def test_training_reaches_every_latent_weight(model: PreTrainedModel, batch: Batch) -> None:
    quantize_model(model, TERNARY)
    model.train()
    loss = model(**batch, labels=torch.tensor([0, 1, 2, 0, 1])).loss
    loss.backward()
    for name, layer in quantized_layers(model).items():
        assert layer.weight.grad is not None, name
        assert layer.weight.grad.isfinite().all(), name
        assert layer.weight.grad.any(), name
