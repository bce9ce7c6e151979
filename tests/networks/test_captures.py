"""Captures against the outputs of transformers with eager attention, and against attention outputs by hand."""

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.networks.captures import Captures, capture
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import family_of, layers_of, module_at
from kdqat_cli.networks.quantized import quantize_model
from tests.architectures import tiny, tokens
from tests.recipes import quantization

Array = npt.NDArray[np.float64]
Batch = dict[str, Tensor]
ALL = frozenset(field.name for field in fields(Captures))
LAYERS, HIDDEN, HEADS = 3, 32, 4
QUANTIZATION = quantization()


@torch.no_grad()
def captured(model: PreTrainedModel, batch: Batch, names: frozenset[str] = ALL) -> Captures:
    with capture(model, names) as captures:
        model(**batch)
    return captures


@torch.no_grad()
def own_outputs(model: PreTrainedModel, batch: Batch) -> Any:
    if model.config._attn_implementation != "eager":  # MPNet has no such option
        model.set_attn_implementation("eager")
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    use_kdqat_attention(model)
    return out


def maps(scores: Tensor, mask: Tensor) -> Tensor:
    """The maps of captured scores: softmax over real keys."""
    return scores.masked_fill(~mask.bool()[:, None, None], -torch.inf).softmax(-1)


def test_shapes(model: PreTrainedModel, batch: Batch) -> None:
    quantize_model(model, QUANTIZATION)
    rows, length = batch["input_ids"].shape
    captures = captured(model, batch)
    assert [tuple(tensor.shape) for tensor in captures.hidden] == [(rows, length, HIDDEN)] * (LAYERS + 1)
    assert [tuple(tensor.shape) for tensor in captures.scores] == [(rows, HEADS, length, length)] * LAYERS
    assert [tuple(tensor.shape) for tensor in captures.outputs] == [(rows, length, HIDDEN)] * LAYERS
    assert [tuple(tensor.shape) for tensor in captures.mha] == [(rows, length, HIDDEN)] * LAYERS


def test_captures_equal_the_outputs_of_transformers(model: PreTrainedModel, batch: Batch) -> None:
    model.double()
    own = own_outputs(model, batch)
    captures = captured(model, batch)
    real = batch["attention_mask"].bool()
    for mine, theirs in zip(captures.hidden, own.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], theirs[real], rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(captures.scores, own.attentions, strict=True):
        torch.testing.assert_close(maps(mine, real), theirs, rtol=1e-9, atol=1e-12)


def test_projected_embeddings_are_not_a_hidden_state() -> None:
    """The word vectors of ELECTRA-small are narrower than its layers."""
    check_against_transformers(tiny("electra", embedding_size=16))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_architecture_is_captured(architecture: str) -> None:
    check_against_transformers(tiny(architecture))


def check_against_transformers(model: PreTrainedModel) -> None:
    """Compares hidden states, maps, and attention outputs computed from MHA(X), with padding in the batch."""
    model.double()
    batch = tokens(model)
    own = own_outputs(model, batch)
    captures = captured(model, batch)
    torch.testing.assert_close(captures.hidden, list(own.hidden_states), rtol=1e-9, atol=1e-12)
    derived = [maps(scores, batch["attention_mask"]) for scores in captures.scores]
    torch.testing.assert_close(derived, list(own.attentions), rtol=1e-9, atol=1e-12)
    for index, layer in enumerate(layers_of(model)):
        output = module_at(layer, family_of(model).attention_output)
        norm = next(module for module in output.modules() if "Norm" in type(module).__name__)
        expected = norm(captures.hidden[index] + captures.mha[index])
        torch.testing.assert_close(captures.outputs[index], expected, rtol=1e-9, atol=1e-12)
        assert captures.mha[index].std() > 0.01, "without MHA(X) the sum would be the input"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_mha_is_captured_before_dropout(architecture: str) -> None:
    model = tiny(architecture).train()
    use_kdqat_attention(model)
    for tensor in captured(model, tokens(model), frozenset({"mha"})).mha:
        assert tensor.all(), "dropout would leave zeros"


def test_scores_mha_and_outputs_by_hand(model: PreTrainedModel, batch: Batch) -> None:
    """Scores = QKᵀ/√d_h, MHA(X) and Y = LayerNorm(X + MHA(X)) from each layer's input and weights, in float64."""
    model.double()
    use_kdqat_attention(model)
    captures = captured(model, batch)
    state = {name: values.numpy() for name, values in model.base_model.state_dict().items()}
    mask = batch["attention_mask"].numpy().astype(bool)
    for index in range(LAYERS):
        weights = {
            name.removeprefix(f"encoder.layer.{index}.attention."): values
            for name, values in state.items()
            if name.startswith(f"encoder.layer.{index}.attention.")
        }
        for row in range(len(mask)):
            length = mask[row].sum()
            inputs = captures.hidden[index][row, :length].numpy()
            scores, mha, output = _attention_output(inputs, weights, model.config.layer_norm_eps)
            mine = captures.scores[index][row, :, :length, :length].numpy()
            np.testing.assert_allclose(mine, scores, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(captures.mha[index][row, :length].numpy(), mha, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(captures.outputs[index][row, :length].numpy(), output, rtol=1e-9, atol=1e-11)


def _attention_output(inputs: Array, weights: dict[str, Array], epsilon: float) -> tuple[Array, Array, Array]:
    def apply(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    size = HIDDEN // HEADS
    query, key, value = (apply(f"self.{name}", inputs) for name in ("query", "key", "value"))
    scores, contexts = [], []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        score = query[:, part] @ key[:, part].T / np.sqrt(size)
        power = np.exp(score)
        scores.append(score)
        contexts.append(power / power.sum(1, keepdims=True) @ value[:, part])
    mha = apply("output.dense", np.concatenate(contexts, axis=1))
    summed = inputs + mha
    centred = summed - summed.mean(1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + epsilon)
    return np.stack(scores), mha, normal * weights["output.LayerNorm.weight"] + weights["output.LayerNorm.bias"]


@pytest.mark.parametrize("quantized", [False, True])
def test_capturing_changes_no_bit(model: PreTrainedModel, batch: Batch, quantized: bool) -> None:
    if quantized:
        quantize_model(model, QUANTIZATION)
    else:
        use_kdqat_attention(model)
    with torch.no_grad():
        before = model(**batch).logits
        with capture(model, ALL):
            inside = model(**batch).logits
    assert torch.equal(inside, before)


@pytest.mark.parametrize("names", [frozenset[str](), *(frozenset({name}) for name in sorted(ALL))])
def test_only_the_named_captures_are_recorded(model: PreTrainedModel, batch: Batch, names: frozenset[str]) -> None:
    use_kdqat_attention(model)
    captures = captured(model, batch, names)
    assert {name for name in ALL if getattr(captures, name)} == names


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_or_attribute_remains(model: PreTrainedModel, batch: Batch, fails: bool) -> None:
    use_kdqat_attention(model)
    before = _marks(model)
    captures = Captures()
    try:
        with capture(model, ALL) as captures:
            model(**batch)
            assert _marks(model) != before
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert _marks(model) == before
    recorded = {name: len(getattr(captures, name)) for name in ALL}
    model(**batch)
    assert {name: len(getattr(captures, name)) for name in ALL} == recorded


def _marks(model: PreTrainedModel) -> list[tuple[str, list[str], int]]:
    """The attributes and forward hooks of every module."""
    return [(name, sorted(vars(x)), len(x._forward_hooks)) for name, x in model.named_modules()]


def test_the_gradient_flows_through_captures(model: PreTrainedModel, batch: Batch) -> None:
    quantize_model(model, QUANTIZATION)
    with capture(model, ALL) as captures:
        model(**batch)
    last = layers_of(model)[-1]
    query = module_at(last, family_of(model).attention).query.weight
    captures.scores[-1].square().sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert query.grad is not None
    assert query.grad.any()
    for tensors in (captures.outputs, captures.mha):
        query.grad = None
        tensors[-1].square().sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert query.grad is not None
        assert query.grad.any()
