"""Eigenvalues beside an exact Hessian, entropy, calibration, and the parts of the diagnosis."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention as Output

from kdqat_cli.analysis.answers import calibration, calibration_error
from kdqat_cli.analysis.diagnosis import parts_of, quantized_alone, restored
from kdqat_cli.analysis.hessian import top_eigenvalues
from kdqat_cli.analysis.plain import plain_copy
from kdqat_cli.analysis.weights import entropy
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.parameters import freeze, quantized_weights
from tests.recipes import quantization


class Small(nn.Module):
    """A network with 45 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, values: torch.Tensor) -> Output:
        return Output(logits=self.outer(self.inner(values).tanh()))


def test_eigenvalues_are_those_of_the_exact_hessian() -> None:
    torch.manual_seed(1)
    model = Small()
    batch = {"values": 3 * torch.randn(8, 4), "labels": torch.randint(3, (8,))}
    start = parameters_to_vector(model.parameters()).detach().double()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        exact = Small().double()
        pieces, place = {}, 0
        for name, parameter in exact.named_parameters():
            pieces[name] = flat[place : place + parameter.numel()].view_as(parameter)
            place += parameter.numel()
        logits = torch.func.functional_call(exact, pieces, (batch["values"].double(),)).logits
        return nn.functional.cross_entropy(logits, batch["labels"])

    hessian = torch.autograd.functional.hessian(loss, start)  # type: ignore[no-untyped-call]
    vector_to_parameters(start.float(), model.parameters())
    exact = torch.linalg.eigvalsh(hessian).flip(0)[:5].tolist()
    found = top_eigenvalues(model, batch, 5, seed=0)
    assert found == pytest.approx(exact, rel=5e-2)  # the tolerance of Lanczos' iteration
    assert found[0] == pytest.approx(exact[0], rel=1e-3)


def test_entropy_of_levels() -> None:
    assert entropy(torch.tensor([[-1, 0], [0, 1]])) == pytest.approx(1.5)  # ½·1 + 2·¼·2
    assert entropy(torch.zeros(3, 3)) == 0
    assert entropy(torch.tensor([0, 1, 2]).repeat(10)) == pytest.approx(math.log2(3))


def test_calibration_error_of_probabilities_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.35, 0.65]])
    table = calibration(probabilities, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    # Two answers with 0.9, one of them right; one answer with 0.55, right; one with 0.65, right.
    assert [(row["to"], row["rows"], row["right"]) for row in table] == [(0.6, 1, 1.0), (0.7, 1, 1.0), (0.9, 2, 0.5)]
    assert calibration_error(table) == pytest.approx((1 * 0.45 + 1 * 0.35 + 2 * 0.4) / 4, abs=1e-6)


@pytest.fixture
def models(tiny_encoder: Path) -> tuple[nn.Module, nn.Module]:
    """A teacher, and its quantised copy."""
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2).eval()
    student = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2).eval()
    student.load_state_dict(teacher.state_dict())
    quantize_model(student, quantization())
    freeze(student)
    return teacher, student


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[1, 5, 6, 7]]), attention_mask=torch.ones(1, 4)).logits
        return found


def test_with_all_parts_in_full_precision_the_copy_is_the_teacher(models: tuple[nn.Module, nn.Module]) -> None:
    teacher, student = models
    before = _logits(student)
    plain = plain_copy(teacher)
    whole, *_, activations = parts_of(student)
    assert (whole.name, activations.name) == ("all weights", "activations")
    with restored(student, plain, activations), restored(student, plain, whole):
        assert torch.allclose(_logits(student), _logits(plain), atol=1e-5)
    assert torch.equal(_logits(student), before)


def test_every_weight_belongs_to_a_layer_and_a_type(models: tuple[nn.Module, nn.Module]) -> None:
    parts = parts_of(models[1])
    inner = {name for name in quantized_weights(models[1]) if ".layer." in name}
    for kind in ("layer ", "every "):
        names = [name for part in parts if part.name.startswith(kind) for name in part.weights]
        assert sorted(names) == sorted(inner)


def test_only_one_part_is_quantised_and_restored_afterwards(models: tuple[nn.Module, nn.Module]) -> None:
    teacher, student = models
    plain = plain_copy(teacher)
    before = {name: values.clone() for name, values in plain.state_dict().items()}
    part = parts_of(student)[1]
    with quantized_alone(plain, student, part):
        changed = {name for name, values in plain.state_dict().items() if not torch.equal(values, before[name])}
        assert changed == set(part.weights)
        for name in part.weights:
            assert torch.equal(plain.get_parameter(name), quantized_weights(student)[name].codes().value())
    assert all(torch.equal(values, before[name]) for name, values in plain.state_dict().items())


def test_a_plain_copy_has_the_quantised_weights(models: tuple[nn.Module, nn.Module]) -> None:
    copy = plain_copy(models[1])
    for name, weight in quantized_weights(models[1]).items():
        assert torch.equal(copy.get_parameter(name), weight.codes().value())
