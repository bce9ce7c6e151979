"""Points: their formula, first values, training, and distribution among tensors."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from kdqat_cli.quantizers.codes import MATRIX
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.learned import LearnedPoints, learn_points, settle_points
from kdqat_cli.quantizers.parameters import level_bits, quantize_parameter, quantized_weights
from kdqat_cli.quantizers.points import Points, by_budget, by_gradient, mean_bits, nearest, scaled
from kdqat_cli.quantizers.weights import StraightThrough


def test_a_worked_bucket() -> None:
    """β = 1, α = 4, v = 0, 0.25, 0.5, 1; points 0, 0.5, 1. The upper one of two equally near points is taken."""
    quantizer = Points(3, bucket=None, start="uniform")
    codes = quantizer.codes(torch.tensor([1.0, 2.0, 3.0, 5.0]), MATRIX)
    assert codes.levels.tolist() == [0, 1, 1, 2]
    assert codes.value().tolist() == [1.0, 3.0, 3.0, 5.0]


@pytest.mark.parametrize("bucket", [None, 7, 64])
@pytest.mark.parametrize("start", ["quantiles", "uniform"])
def test_against_loops_in_float64(start: str, bucket: int | None) -> None:
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    quantizer = Points(4, bucket, start)  # type: ignore[arg-type]
    codes = quantizer.codes(latent, quantizer.grouping)
    flat, size = latent.flatten().tolist(), bucket if bucket and bucket < 45 else 45
    padded = flat + [flat[-1]] * (-len(flat) % size)
    buckets = [padded[i : i + size] for i in range(0, len(padded), size)]
    shares = [[(w - min(part)) / (max(part) - min(part)) for w in part] for part in buckets]
    points = np.linspace(0, 1, 4)
    if start == "quantiles":
        points = np.percentile(np.array(shares), np.linspace(0, 100, 4))
    expected = []
    for part, values in zip(buckets, shares, strict=True):
        for v in values:
            distance, level = min((abs(v - p), -k) for k, p in enumerate(points))
            assert distance <= 1
            expected.append(points[-level] * (max(part) - min(part)) + min(part))
    assert codes.value().flatten().tolist() == pytest.approx(expected[: len(flat)], rel=1e-12)


def test_a_constant_bucket_and_a_nan() -> None:
    quantizer = Points(4, 4)
    same = quantizer.codes(torch.full((8,), 0.3), quantizer.grouping)
    assert torch.equal(same.value(), torch.full((8,), 0.3))
    values, _, _ = scaled(torch.tensor([[0.0, math.nan, 1.0, 2.0]]), MATRIX)
    assert values.isnan().any(), "so the training can notice it"


def learned(weight: torch.Tensor, count: int, bucket: int | None) -> tuple[nn.Linear, LearnedPoints]:
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    linear.weight.data = weight.clone()
    quantize_parameter(linear, "weight", StraightThrough(Points(count, bucket), None))
    learn_points(linear)
    quantizer = quantized_weights(linear)["weight"].weight_quantizer
    assert isinstance(quantizer, LearnedPoints)
    return linear, quantizer


@pytest.mark.parametrize("bucket", [None, 5])
def test_the_gradient_of_a_point_is_the_sum_over_its_weights(bucket: int | None) -> None:
    """∂L/∂p_k = Σ over its weights of ∂L/∂ŵ · α of their bucket; also by finite differences, in float64."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    linear, quantizer = learned(weight, 4, bucket)

    def loss() -> torch.Tensor:
        value: torch.Tensor = linear(inputs).square().sum()
        return value

    torch.autograd.backward([loss()])
    grad = quantizer.points.grad
    assert grad is not None
    assert not linear.bias.requires_grad
    for k in range(4):
        with torch.no_grad():
            step = 1e-7
            quantizer.points[k] += step
            above = loss().item()
            quantizer.points[k] -= 2 * step
            below = loss().item()
            quantizer.points[k] += step
        assert grad[k].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-6)


def test_points_that_change_their_order_are_sorted_and_keep_their_gradients() -> None:
    torch.manual_seed(1)
    weight, inputs = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    linear, quantizer = learned(weight, 4, None)
    torch.autograd.backward([linear(inputs).sum()])
    before, out = quantizer.points.grad, linear(inputs)
    assert before is not None
    turned = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        quantizer.points.copy_(quantizer.points[turned])
    quantizer.points.grad = None
    torch.autograd.backward([linear(inputs).sum()])
    assert torch.equal(linear(inputs), out)
    assert quantizer.points.grad is not None
    assert torch.equal(quantizer.points.grad, before[turned])


@pytest.mark.parametrize("layer", [False, True])
def test_a_training_of_points_lowers_the_error_and_settles(layer: bool) -> None:
    """For a parameter and a layer of an encoder. The frozen module computes the same as the trained one."""
    torch.manual_seed(2)
    plain = nn.Linear(16, 16)
    inputs, wanted = torch.randn(64, 16), plain.weight.detach().clone()
    quantizer = StraightThrough(Points(4, 32, "uniform"), None)
    model: nn.Module = nn.Sequential(plain)
    if layer:
        model = nn.Sequential(QuantizedLinear(plain, quantizer, None))
    else:
        quantize_parameter(plain, "weight", quantizer)
    learn_points(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [parameter.numel() for parameter in trained] == [4]
    optimizer = torch.optim.SGD(trained, 0.01)
    target = inputs @ wanted.T + plain.bias.detach()
    errors = []
    for _ in range(60):
        error = (model(inputs) - target).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward([error])
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.9 * errors[0]
    out = model(inputs)
    settle_points(model)
    assert torch.equal(model(inputs), out)
    assert level_bits(model) == 2.0
    assert not any("points" in name for name in model.state_dict())


def test_points_are_shared_by_the_norm_of_the_gradient() -> None:
    """With 4 points per tensor, each keeps 2, and 3 · 2 = 6 are shared 5 : 1 : 0. Rounding may not add points."""
    assert by_gradient(4, {"a": 5.0, "b": 1.0, "c": 0.0}) == {"a": 7, "b": 3, "c": 2}
    shared = by_gradient(4, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 4.0})
    assert sum(shared.values()) == 5 * 4
    assert by_gradient(4, {"a": 0.0, "b": 0.0}) == {"a": 4, "b": 4}
    assert max(by_gradient(256, {"a": 1.0, "b": 0.0}).values()) == 256


def test_the_rule_of_the_paper_exceeds_its_budget_and_the_other_keeps_it() -> None:
    """A large tensor with a large gradient and small ones: the mean number of bits per weight rises far above 2."""
    norms, sizes = {"large": 8.0, "bias": 1.0, "norm": 1.0}, {"large": 100_000, "bias": 100, "norm": 100}
    assert mean_bits(by_gradient(4, norms), sizes) > 2.5
    for bits in (1.5, 2.0, 3.0, 4.0, 8.0):
        counts = by_budget(bits, norms, sizes)
        assert bits - 0.6 < mean_bits(counts, sizes) <= bits + 1e-9, "points are whole: 2 to 3 is 0.58 bits"


def test_no_other_choice_within_the_budget_has_a_smaller_error() -> None:
    """Σ over weights of (∂L/∂v · error)², the error halving with each bit, for all choices of whole points."""
    norms, sizes = {"a": 3.0, "b": 1.0, "c": 0.4}, {"a": 300, "b": 200, "c": 100}
    counts = by_budget(3.0, norms, sizes)

    def error(points: dict[str, int]) -> float:
        return sum((norms[name] / points[name]) ** 2 for name in norms)

    every = [dict(zip(norms, choice, strict=True)) for choice in product(range(2, 40), repeat=3)]
    best = min(error(points) for points in every if mean_bits(points, sizes) <= 3.0 + 1e-9)
    assert mean_bits(counts, sizes) <= 3.0 + 1e-9
    assert error(counts) < 1.02 * best


def test_a_weight_takes_its_nearest_point() -> None:
    points = torch.tensor([-0.1, 0.2, 0.9])
    values = torch.tensor([-5.0, 0.04, 0.06, 0.54, 0.55, 0.56, 7.0])
    assert nearest(values, points).tolist() == [0, 0, 1, 1, 2, 2, 2]
