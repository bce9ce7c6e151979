"""Details of the public code in recipe `paper`: a floor for the probabilities of maps, and a cutoff of scores.

Each is compared with the public code's formula in float64: softmax, clamped probabilities, and autograd's gradient.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kdqat_cli.config import Params
from kdqat_cli.distillation.losses import DistillationLoss, map_loss, score_loss
from kdqat_cli.native import fused
from kdqat_cli.native.library import KERNEL_VARIABLE, TORCH
from kdqat_cli.networks.captures import Captures
from kdqat_cli.params import resolve
from tests.distillation.reference import HEADS, LENGTH, MASKS, ROWS, Array
from tests.recipes import distillation

FLOOR, CUTOFF = 1e-8, -100.0
TEMPERATURES = [1.0, 5.0]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With torch, which computes in FP32 too."""
    monkeypatch.setenv(KERNEL_VARIABLE, TORCH)
    fused._kernel.cache_clear()
    yield
    fused._kernel.cache_clear()


def scores(seed: int, deviation: float) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return deviation * torch.randn(ROWS, HEADS, LENGTH, LENGTH, generator=draw, dtype=torch.float64)


def floored_divergence(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean over heads and sentences of Σ max(p_t, ε)·(log max(p_t, ε) - log max(p_s, ε)) / length, for real tokens."""
    sentences = []
    for own, taught, real in zip(student, teacher, mask.bool(), strict=True):
        maps = [(x[:, real][:, :, real] / temperature).softmax(-1).clamp(min=FLOOR) for x in (own, taught)]
        divergence = (maps[1] * (maps[1].log() - maps[0].log())).sum((-2, -1)) / real.sum()
        sentences += [divergence.mean()] if real.any() else []
    return torch.stack(sentences).mean()


def test_the_floor_by_hand() -> None:
    """Two keys: a teacher with 1 - 1e-8 and nearly 0, a student with 1/2 and 1/2, and one as sure of the other key."""
    teacher = torch.tensor([[[[30.0, 0.0]]]], dtype=torch.float64)
    mask = torch.ones(1, 2)
    even = torch.zeros_like(teacher, requires_grad=True)

    def loss(student: Tensor) -> Tensor:
        rows = [side.expand(1, 1, 2, 2) for side in (student, teacher)]
        return map_loss(rows[:1], rows[1:], mask, floor=FLOOR)

    value = loss(even)
    assert value.item() == pytest.approx(math.log(2) + 1e-8 * math.log(2e-8), rel=1e-12)
    value.backward()  # type: ignore[no-untyped-call]
    # p_s·Σa - a with a = (1, 1e-8)
    assert even.grad is not None
    assert even.grad.flatten().tolist() == pytest.approx([-0.5 + 0.5e-8, 0.5 - 0.5e-8], rel=1e-12)

    opposite = torch.tensor([[[[0.0, 30.0]]]], dtype=torch.float64, requires_grad=True)
    value = loss(opposite)
    assert value.item() == pytest.approx(8 * math.log(10) * (1 - 1e-8), rel=1e-9), "at most log 1/ε, where KL is 30"
    value.backward()  # type: ignore[no-untyped-call]
    assert opposite.grad is not None
    # The student's small probability is below the floor and gets no gradient: c = (0, 1e-8), so p_s·Σc - c is almost 0.
    assert opposite.grad.abs().max() < 1e-20
    exact = map_loss([opposite.expand(1, 1, 2, 2)], [teacher.expand(1, 1, 2, 2)], mask)
    assert exact.item() == pytest.approx(30, rel=1e-9)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_map_loss_with_a_floor_agrees_with_the_public_code(mask: Array, temperature: float) -> None:
    real = torch.tensor(mask)
    student, teacher = scores(1, 12.0).requires_grad_(), scores(2, 12.0)
    value = map_loss([student], [teacher], real, temperature, FLOOR)
    if not real.any():
        assert value.item() == 0
        return
    value.backward()  # type: ignore[no-untyped-call]
    wanted = student.detach().clone().requires_grad_()
    expected = floored_divergence(wanted, teacher, real, temperature)
    expected.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(expected.item(), rel=1e-7)
    assert student.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(student.grad, wanted.grad, rtol=1e-6, atol=1e-12)
    if temperature == 1.0:
        assert ((student / temperature).softmax(-1) < FLOOR).double().mean() > 0.05, "the floor is reached"
        assert value.item() != pytest.approx(map_loss([student], [teacher], real).item(), rel=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_torch_computes_it_in_fp32_as_well(by_torch: None, temperature: float) -> None:
    mask = torch.tensor(MASKS["a row of padding"])
    student, teacher = scores(3, 12.0), scores(4, 12.0)
    expected = floored_divergence(student, teacher, mask, temperature)
    single = map_loss([student.float()], [teacher.float()], mask, temperature, FLOOR)
    assert single.item() == pytest.approx(expected.item(), rel=1e-5)
    for bad in (math.nan, math.inf, -math.inf):
        broken = student.float()
        broken[0, 0, 1, 2] = bad
        assert not map_loss([broken], [teacher.float()], mask, temperature, FLOOR).isfinite(), bad


def test_scores_are_cut_off_by_hand() -> None:
    """Scores of -100 and -120 become 0, in both models; one of the four keys is padding."""
    student = torch.tensor([[[[-100.0, -99.0, 3.0, 7.0]]]], dtype=torch.float64).expand(1, 1, 4, 4).clone()
    student.requires_grad_()
    teacher = torch.tensor([[[[2.0, -120.0, 1.0, -200.0]]]], dtype=torch.float64).expand(1, 1, 4, 4)
    mask = torch.tensor([[1, 1, 1, 0]])
    value = score_loss([student], [teacher], mask, count_padding=True, cutoff=CUTOFF)
    errors = [0 - 2, -99 - 0, 3 - 1, 0]
    assert value.item() == pytest.approx(sum(error**2 for error in errors) / 4, rel=1e-12)
    value.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    gradient = [0, 2 * -99 / 16, 2 * 2 / 16, 0]  # no gradient if the score was cut off
    for row in student.grad[0, 0].tolist():
        assert row == pytest.approx(gradient, rel=1e-12)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_score_loss_with_a_cutoff_agrees_with_the_public_code(mask: Array) -> None:
    """The public code lowers masked scores by 10,000, and all scores at or below -100 become 0, masked or not."""
    real = torch.tensor(mask)
    student, teacher = scores(5, 90.0).requires_grad_(), scores(6, 90.0)
    value = score_loss([student], [teacher], real, count_padding=True, cutoff=CUTOFF)
    wanted = student.detach().clone().requires_grad_()
    additive = -10000.0 * (~real)[:, None, None, :]
    own, taught = (torch.where(x + additive <= CUTOFF, 0.0, x) for x in (wanted, teacher))
    expected = (own - taught).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(student.grad, wanted.grad, rtol=1e-12, atol=0)
    assert (student <= CUTOFF).any()


def test_the_values_of_the_recipe_reach_the_terms() -> None:
    student, teacher, mask = scores(7, 60.0), scores(8, 60.0), torch.ones(ROWS, LENGTH)
    logits = torch.zeros(ROWS, 2, dtype=torch.float64)
    settings = resolve("rte", Params(), recipe="paper").distillation

    def term(name: str, **changes: object) -> float:
        chosen = settings.model_copy(update={"loss": name, **changes})
        # Hidden states are always compared; here one state, equal in both models.
        own, taught = (Captures(hidden=[logits[:, None]], scores=[x]) for x in (student, teacher))
        value: float = DistillationLoss(chosen).terms(own, taught, logits, logits, mask)[name].item()
        return value

    assert term("map") == map_loss([student], [teacher], mask, floor=1e-8).item()
    assert term("score") == score_loss([student], [teacher], mask, count_padding=True, cutoff=-100.0).item()
    for name, field in {"map": "map_floor", "score": "score_cutoff"}.items():
        assert getattr(distillation(name), field) is None
        assert term(name, **{field: None}) != term(name)
