"""The explanation of a training with NaN or infinite numbers."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.objective import OnTeacher
from kdqat_cli.errors import GateError
from kdqat_cli.networks.finite import weight_at_fault
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.diagnosis import explain
from kdqat_cli.training.loop import Loop, Progress
from tests.recipes import distillation, quantization, training


def network(first: float = 1.0) -> nn.Sequential:
    """y = w₁ · w₀ · x, with w₁ = 2."""
    layers = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for layer, weight in zip(layers, (first, 2.0), strict=True):
        nn.init.constant_(layer.weight, weight)
    return nn.Sequential(*layers)


def test_a_weight_is_named_before_its_effects() -> None:
    model = network(first=torch.nan)
    said = explain({"model": model}, lambda: {"fine": torch.ones(()), "labels": model(torch.ones(1, 1)).sum()})
    assert said == "the loss term labels is not finite, first the model's weight 0.weight"
    assert weight_at_fault({"model": network(), "teacher": model}) == "the teacher's weight 0.weight"
    assert weight_at_fault({"model": network()}) is None


def test_an_overflow_is_named_at_its_origin() -> None:
    """w₀ x = 3·10³⁸ still fits in 32 bits, and twice that does not."""
    model = network(first=3e38)
    said = explain({"student": model}, lambda: {"hidden (layer 1)": model(torch.ones(1, 1)).sum()})
    assert said == "the loss term hidden (layer 1) is not finite, first the output of the student's 1"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_gradient_is_named_at_its_origin() -> None:
    """√ has an infinite slope at 0: the last weight before it gets inf, earlier ones inf times 0 and inf times 2."""
    model = network(first=0.0)
    terms = {"fine": model(torch.ones(1, 1)).sum(), "map": model(torch.ones(1, 1)).sum().sqrt()}
    said = explain({"model": model}, lambda: terms)
    assert said == "the gradient of the loss term map is not finite, first at the weight 1.weight"


def test_a_fault_that_does_not_repeat_is_not_explained() -> None:
    model = network()
    said = explain({"model": model}, lambda: {"labels": model(torch.ones(1, 1)).sum()})
    assert said == "the loss or its gradient is not finite"


Start = Callable[[Progress], None]


@pytest.fixture
def teacher(model: PreTrainedModel) -> PreTrainedModel:
    out = copy.deepcopy(model)
    use_kdqat_attention(out)
    return out


@pytest.fixture
def start(model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path) -> Start:
    """Distils for four steps with the same batch."""
    quantize_model(model, quantization())
    labelled = {**batch, "labels": torch.tensor([0, 1, 2, 2, 1]), "counted": batch["attention_mask"]}
    rows = SharedBatches(range(4), lambda _: dict(labelled), 1, 0)
    objective = OnTeacher(model, teacher, DistillationLoss(distillation("map+output")), "fp32")

    def run(progress: Progress) -> None:
        Loop(model, rows, objective, lambda _: {"score": 0.0}, training(epochs=1), 1, tmp_path, progress).run()

    return run


def test_the_layer_with_a_loss_that_is_not_finite_is_named(teacher: PreTrainedModel, start: Start) -> None:
    with torch.no_grad():
        teacher.bert.encoder.layer[1].attention.self.query.bias[0] = torch.inf
    with pytest.raises(GateError) as caught:
        start(lambda *_: None)
    assert "stopped at step 1 of 4" in caught.value.sentence
    assert "map (layer 1)" in caught.value.sentence
    assert "first the teacher's weight bert.encoder.layer.1.attention.self.query.bias" in caught.value.sentence


def test_weights_that_are_not_finite_are_neither_scored_nor_saved(
    model: PreTrainedModel, start: Start, tmp_path: Path
) -> None:
    def spoil(step: int, steps: int, news: str) -> None:
        if step == steps:
            with torch.no_grad():
                model.classifier.weight[0, 0] = torch.nan

    with pytest.raises(GateError, match=r"the student's weight classifier\.weight is not finite"):
        start(spoil)
    assert not list(tmp_path.glob("checkpoint-*"))
