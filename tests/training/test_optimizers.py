"""BERT's Adam against the same formula in plain floats, number by number."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from kdqat_cli.config import OptimizerName
from kdqat_cli.training.optimizers import BertAdam, optimizer_of
from tests.recipes import training

CLIP = 1.0
SHAPES = [(3, 4), (5,), (1,), (2, 3, 2)]
RATES = [0.0, 1e-3, 2e-3, 1.3e-3, 0.6e-3, 0.0, 5e-2]


class InPlainFloats:
    """Spec, section 5: Adam without bias correction, ε 1e-6, decoupled decay, each gradient clipped separately."""

    def __init__(self, weights: list[list[float]], decays: list[float]) -> None:
        self.weights = weights
        self.decays = decays
        self.m = [[0.0] * len(weight) for weight in weights]
        self.v = [[0.0] * len(weight) for weight in weights]

    def step(self, gradients: list[list[float] | None], rate: float) -> None:
        for number, gradient in enumerate(gradients):
            if gradient is None:
                continue
            norm = math.sqrt(sum(g * g for g in gradient))
            shrink = min(1.0, CLIP / (norm + 1e-6))
            for place, g in enumerate(gradient):
                clipped = shrink * g
                self.m[number][place] = 0.9 * self.m[number][place] + 0.1 * clipped
                self.v[number][place] = 0.999 * self.v[number][place] + 0.001 * clipped * clipped
                update = self.m[number][place] / (math.sqrt(self.v[number][place]) + 1e-6)
                update += self.decays[number] * self.weights[number][place]
                self.weights[number][place] -= rate * update


def parameter(values: Any, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def flat(tensors: list[Any]) -> list[list[float]]:
    return [tensor.detach().double().flatten().tolist() for tensor in tensors]


def optimizer_with(parameters: list[nn.Parameter], decays: list[float]) -> BertAdam:
    groups = [{"params": [x], "weight_decay": decay} for x, decay in zip(parameters, decays, strict=True)]
    return BertAdam(groups, lr=1.0, gradient_clip=CLIP)


def set_rate(optimizer: BertAdam, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def test_one_step_by_hand() -> None:
    weight = parameter([2.0])
    weight.grad = torch.tensor([0.5], dtype=torch.float64)
    BertAdam([weight], lr=0.1, gradient_clip=1.0, weight_decay=0.01).step()
    # m = 0.05, v = 0.00025: 0.05 / (0.0158114 + 0.000001) = 3.16208; plus the decay 0.02, times 0.1.
    assert weight.item() == pytest.approx(2 - 0.1 * (3.16208 + 0.02), abs=1e-6)


def test_a_clipped_step_by_hand() -> None:
    weight = parameter([0.0, 0.0])
    weight.grad = torch.tensor([30.0, -40.0], dtype=torch.float64)  # the norm is 50: 0.6 and -0.8
    optimizer = BertAdam([weight], lr=0.1, gradient_clip=1.0)
    optimizer.step()
    assert optimizer.state[weight]["m"].tolist() == pytest.approx([0.06, -0.08], rel=1e-6)
    assert optimizer.state[weight]["v"].tolist() == pytest.approx([0.00036, 0.00064], rel=1e-6)
    assert weight.grad.tolist() == [30, -40], "the gradient itself is not changed"


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_equals_plain_floats_over_many_steps(dtype: torch.dtype, rel: float) -> None:
    """With a changing rate, different decays, gradients above and below the clip, and missing gradients."""
    draw = np.random.default_rng(0)
    parameters = [parameter(draw.normal(0, 1, shape), dtype) for shape in SHAPES]
    decays = [0.01, 0.0, 0.3, 0.01]
    expected = InPlainFloats(flat(parameters), decays)
    optimizer = optimizer_with(parameters, decays)
    norms = []
    for step, rate in enumerate(RATES):
        set_rate(optimizer, rate)
        for number, weight in enumerate(parameters):
            size = 10.0 ** draw.integers(-3, 2)
            missing = (number + step) % 3 == 0
            weight.grad = None if missing else torch.tensor(draw.normal(0, size, weight.shape), dtype=dtype)
            norms.append(0.0 if weight.grad is None else weight.grad.norm().item())
        expected.step([None if x.grad is None else flat([x.grad])[0] for x in parameters], rate)
        optimizer.step()
    assert any(norm > CLIP for norm in norms)
    assert any(0 < norm < CLIP for norm in norms)
    for number, weight in enumerate(parameters):
        state = optimizer.state[weight]
        for own, wanted in zip(
            flat([weight, state["m"], state["v"]]),
            (expected.weights[number], expected.m[number], expected.v[number]),
            strict=True,
        ):
            assert own == pytest.approx(wanted, rel=rel, abs=rel * max(map(abs, wanted)))


def test_a_huge_gradient_does_not_shrink_the_others() -> None:
    """Clipping the norm of the whole gradient would do that."""
    quiet = torch.tensor([0.1, -0.2], dtype=torch.float64)

    def moved(loud: float) -> Tensor:
        weights = [parameter([1.0, 2.0]), parameter([3.0])]
        weights[0].grad, weights[1].grad = quiet.clone(), torch.tensor([loud], dtype=torch.float64)
        optimizer = BertAdam(weights, lr=0.1, gradient_clip=CLIP)
        optimizer.step()
        assert optimizer.state[weights[0]]["m"].tolist() == pytest.approx((0.1 * quiet).tolist(), rel=1e-12)
        return weights[0].detach()

    assert torch.equal(moved(1e6), moved(1e-6))


def test_with_a_rate_of_0_the_moments_change_and_the_weights_do_not() -> None:
    """A warm-up begins with such a step."""
    weight = parameter([1.0, -2.0])
    optimizer = BertAdam([weight], lr=0.0, gradient_clip=CLIP, weight_decay=0.5)
    weight.grad = torch.tensor([0.3, 0.4], dtype=torch.float64)
    optimizer.step()
    assert weight.tolist() == [1.0, -2.0]
    assert optimizer.state[weight]["m"].tolist() == pytest.approx([0.03, 0.04], rel=1e-12)
    assert optimizer.state[weight]["v"].tolist() == pytest.approx([0.00009, 0.00016], rel=1e-12)


def test_a_parameter_without_gradient_is_not_changed() -> None:
    used, unused = parameter([1.0]), parameter([2.0])
    optimizer = BertAdam([used, unused], lr=0.1, gradient_clip=CLIP, weight_decay=0.5)
    optimizer.step()
    used.grad = torch.tensor([0.3], dtype=torch.float64)
    optimizer.step()
    assert (used.item() != 1, unused.item()) == (True, 2)
    assert unused not in optimizer.state, "not even by its decay"


def test_a_gradient_of_zeros_does_not_divide_by_0() -> None:
    weight = parameter([1.0, 2.0])
    weight.grad = torch.zeros(2, dtype=torch.float64)
    BertAdam([weight], lr=0.1, gradient_clip=CLIP).step()
    assert weight.tolist() == [1.0, 2.0]


def test_its_state_continues_from_a_saved_one() -> None:
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, generator=draw) for _ in range(6)]

    def after(steps: list[Tensor], weight: nn.Parameter, optimizer: BertAdam) -> None:
        for gradient in steps:
            weight.grad = gradient.clone()
            optimizer.step()

    whole = parameter([1.0, 2.0, 3.0], torch.float32)
    after(gradients, whole, BertAdam([whole], lr=0.1, gradient_clip=CLIP, weight_decay=0.01))
    first = parameter([1.0, 2.0, 3.0], torch.float32)
    optimizer = BertAdam([first], lr=0.1, gradient_clip=CLIP, weight_decay=0.01)
    after(gradients[:3], first, optimizer)
    second = nn.Parameter(first.detach().clone())
    again = BertAdam([second], lr=9.9, gradient_clip=9.9)
    again.load_state_dict(optimizer.state_dict())
    after(gradients[3:], second, again)
    assert torch.equal(second, whole)


def test_a_closure_is_evaluated_with_gradients() -> None:
    weight = parameter([3.0])
    optimizer = BertAdam([weight], lr=0.1, gradient_clip=100.0)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 9
    assert optimizer.state[weight]["m"].tolist() == pytest.approx([0.6], rel=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("bert-adam", BertAdam)])
def test_the_settings_name_the_optimiser(name: OptimizerName, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = optimizer_of(nn.Linear(2, 2), training(optimizer=name, learning_rate=3e-4, gradient_clip=0.7))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 3e-4
    assert group["betas"] == (0.9, 0.999)
    assert group["eps"] == (1e-6 if name == "bert-adam" else 1e-8)
    assert group.get("gradient_clip") == (0.7 if name == "bert-adam" else None)
