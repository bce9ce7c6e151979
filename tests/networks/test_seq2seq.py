"""The LSTM encoder-decoders of Polino et al.: sizes, computation, padding, quantisation, saving."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdqat_cli.networks.loading import Source, load_net
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.parameters import freeze, plain_state, quantized_weights
from tests.recipes import quantization

FULL = {"source_words": 50_002, "target_words": 50_004}
SMALL = {"source_words": 11, "target_words": 13}
# The published sizes, with the largest vocabularies of the public code.
PARAMETERS = {
    "lstm-teacher": 84_821_004,
    "lstm-512": 81_643_404,
    "lstm-256": 64_865_164,
    "lstm-128": 57_213_324,
    "lstm-500": 80_813_004,
    "lstm-550": 84_301_504,
}


def network(name: str = "lstm-medium", **config: Any) -> Any:
    torch.manual_seed(0)
    return new_network(name, "translation", **SMALL, **config).eval()


def inputs(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "source": pad([torch.tensor(row) for row in sources], batch_first=True, padding_value=1),
        "lengths": torch.tensor([len(row) for row in sources]),
        "target_in": pad([torch.tensor(row) for row in targets], batch_first=True, padding_value=1),
    }


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = new_network(name, "translation", **FULL)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_first_weights_are_within_a_tenth_except_for_the_generator() -> None:
    model = new_network("lstm-256", "translation", **SMALL)
    for name, parameter in model.named_parameters():
        largest = parameter.detach().abs().max().item()
        bound = 256**-0.5 if name.startswith("generator") else 0.1
        assert 0.7 * bound < largest < 1.0001 * bound, name
        assert abs(parameter.mean().item()) < 0.1 * bound or parameter.numel() < 1000


def cell(values: Tensor, hidden: Tensor, memory: Tensor, weights: dict[str, Tensor], ending: str) -> Any:
    """One LSTM cell on vectors, from its equations; the gates are in torch's order: input, forget, cell, output."""
    gates = weights[f"weight_ih{ending}"] @ values + weights[f"bias_ih{ending}"]
    gates = gates + weights[f"weight_hh{ending}"] @ hidden + weights[f"bias_hh{ending}"]
    i, f, g, o = gates.chunk(4)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return o.sigmoid() * memory.tanh(), memory


def test_one_sentence_computed_step_by_step() -> None:
    """Two layers, input feeding and attention, from the equations in float64."""
    model = network().double()
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder")}
    source, target, size = [5, 2, 9, 4], [2, 7, 12], 256
    state = [(torch.zeros(size).double(), torch.zeros(size).double()) for _ in range(2)]
    read = []
    for word in source:
        values = weights["source_vectors.weight"][word]
        for layer in range(2):
            state[layer] = cell(values, *state[layer], encoder, f"_l{layer}")
            values = state[layer][0]
        read.append(values)
    states, fed, logits = torch.stack(read), torch.zeros(size).double(), []
    for word in target:
        values = torch.cat([weights["target_vectors.weight"][word], fed])
        for layer in range(2):
            prefix = f"decoder.{layer}."
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            state[layer] = cell(values, *state[layer], own, "")
            values = state[layer][0]
        attention = torch.softmax(torch.stack([values @ weights["attention.inner.weight"] @ h for h in states]), 0)
        fed = (weights["attention.outer.weight"] @ torch.cat([attention @ states, values])).tanh()
        logits.append(weights["generator.weight"] @ fed + weights["generator.bias"])
    found = model(**inputs([source], [target])).logits[0]
    torch.testing.assert_close(found, torch.stack(logits), rtol=1e-10, atol=1e-12)


def test_padding_and_batch_mates_change_nothing() -> None:
    model = network().double()
    sources, targets = [[5, 2, 9, 4], [3], [8, 8, 7, 6, 5, 10]], [[2, 7], [2, 7, 12, 4, 4], [2]]
    together = model(**inputs(sources, targets)).logits
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = model(**inputs([source], [target])).logits[0]
        torch.testing.assert_close(together[row, : len(target)], alone, rtol=1e-10, atol=1e-12)


def test_single_steps_give_the_same_logits_as_the_whole_sentence() -> None:
    model = network("lstm-small").double()
    batch = inputs([[5, 2, 9], [3, 4]], [[2, 7, 5], [2, 6, 4]])
    whole = model(**batch).logits
    read, state = model.encode(batch["source"], batch["lengths"])
    for place, words in enumerate(batch["target_in"].unbind(1)):
        logits, weights, state = model.step(words, read, state)
        torch.testing.assert_close(logits, whole[:, place])
        torch.testing.assert_close(weights.sum(-1), torch.ones(2).double())
        assert weights[1, 2] == 0


def test_dropout_is_between_layers_and_after_the_attention() -> None:
    one, two = network("lstm-small").train(), network("lstm-medium").train()
    assert one.encoder.dropout == 0
    assert (two.encoder.dropout, two.dropout.p) == (0.3, 0.3)
    seen = []
    two.dropout.register_forward_hook(lambda module, given, output: seen.append(given[0].shape))
    two(**inputs([[5, 2]], [[2, 7, 5]]))
    assert len(seen) == 2 * 3, "per step: one between the layers, one after the attention"


def test_every_matrix_is_quantised_and_once_per_forward(tmp_path: Path) -> None:
    model = network("lstm-medium")
    plain = plain_state(model).keys()
    quantize_model(model, quantization(weights="uniform", activations="fp32", weight_clip=None))
    weights = quantized_weights(model)
    assert set(weights) == {name for name, tensor in plain_state(model).items() if tensor.dim() > 1}
    assert plain_state(model).keys() == plain
    uses = []
    weights["decoder.0.weight_ih"].register_forward_hook(lambda *_: uses.append(1))
    batch = inputs([[5, 2, 9], [3, 4]], [[2, 7, 5], [2, 6, 4]])
    quantised = model(**batch).logits
    assert len(uses) == 1
    quantised.square().mean().backward()
    assert all(weight.weight.grad is not None for weight in weights.values())
    freeze(model)
    assert torch.equal(model(**batch).logits, quantised)
    model.save_pretrained(tmp_path, state_dict=plain_state(model))
    again = load_net(Source.find(str(tmp_path))).eval()
    assert torch.equal(again(**batch).logits, quantised)
