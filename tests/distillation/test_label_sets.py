"""The losses of multi-label rows: worked numbers, float64 loops from the formulas, and sums over several batches."""

import math
from typing import Literal

import numpy as np
import pytest
import torch

from kdqat_cli.distillation.logits import label_sets_loss
from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.objective import are_sets, gold_loss
from tests.recipes import distillation

DRAW = np.random.default_rng(8)
STUDENT, TEACHER = DRAW.normal(0, 3, (5, 4)), DRAW.normal(0, 3, (5, 4))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def soft(student: float, teacher: float, temperature: float) -> float:
    """−T² (p log q + (1 − p) log(1 − q)) for one label."""
    p, q = sigmoid(teacher / temperature), sigmoid(student / temperature)
    return -(temperature**2) * (p * math.log(q) + (1 - p) * math.log(1 - q))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_distillation_loss_is_the_formula(temperature: float) -> None:
    pairs = zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True)
    expected = sum(soft(*pair, temperature) for pair in pairs) / 5
    found = label_sets_loss(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    """p = 1/2, q = 3/4: −(log 3/4 + log 1/4) / 2."""
    found = label_sets_loss(torch.tensor([[math.log(3)]], dtype=torch.float64), torch.zeros(1, 1)).item()
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert gold_loss(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(
        -math.log(0.75) - math.log(0.5)
    )


def test_its_gradient_is_the_gradient_of_the_divergence_of_label_sets() -> None:
    """KL over all 2^C sets of labels; the probability of a set is the product over independent labels."""
    student = torch.tensor(STUDENT, requires_grad=True)
    (slope,) = torch.autograd.grad(label_sets_loss(student, torch.tensor(TEACHER)), student)
    other = torch.tensor(STUDENT, requires_grad=True)
    divergence = torch.zeros((), dtype=torch.float64)
    for number in range(2**4):
        held = torch.tensor([(number >> label) & 1 for label in range(4)], dtype=torch.float64)
        logs = [
            (held * torch.nn.functional.logsigmoid(x) + (1 - held) * torch.nn.functional.logsigmoid(-x)).sum(1)
            for x in (torch.tensor(TEACHER), other)
        ]
        divergence = divergence + (logs[0].exp() * (logs[0] - logs[1])).sum() / 5
    (expected,) = torch.autograd.grad(divergence, other)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("mean", ["rows", "classes"])
def test_the_settings_weight_it_and_batches_add_up(mean: Literal["rows", "classes"]) -> None:
    loss = DistillationLoss(distillation("logits", logits=0.7, logits_temperature=2.0, logits_mean=mean))
    sides = torch.tensor(STUDENT), torch.tensor(TEACHER)
    value = loss.of_logits(*sides, sets=True).item()
    assert value == pytest.approx(0.7 * label_sets_loss(*sides, 2.0).item() / (4 if mean == "classes" else 1))
    parts = [loss.of_logits(sides[0][part], sides[1][part], sets=True).item() for part in (slice(2), slice(2, 5))]
    counts = [loss.counts(torch.ones(rows, 6))["logits"].item() for rows in (2, 3)]
    assert value == pytest.approx(np.dot(parts, counts) / sum(counts))


def test_the_labels_loss_agrees_with_the_formula_and_differs_from_the_loss_of_tokens() -> None:
    gold = (TEACHER > 0).astype(float)
    expected = sum(-math.log(sigmoid(x if y else -x)) for x, y in zip(STUDENT.flatten(), gold.flatten(), strict=True))
    assert gold_loss(torch.tensor(STUDENT), torch.tensor(gold)).item() == pytest.approx(expected / 5, rel=1e-12)
    assert are_sets(torch.tensor(gold))
    assert not are_sets(torch.tensor([[1, -100]]))
    assert not are_sets(torch.tensor([1.5, 2.5]))
