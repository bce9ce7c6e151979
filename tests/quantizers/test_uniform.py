"""Uniform weights in buckets: by hand, against float64 loops, the guarantees of the docstring, the three gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdqat_cli.quantizers.codes import MATRIX
from kdqat_cli.quantizers.uniform import Uniform
from kdqat_cli.quantizers.weights import StraightThrough
from tests.quantizers.reference import bucketed
from tests.recipes import quantization

WEIGHT = torch.tensor([[0.0, 0.3, 1.0, -0.5], [2.0, 2.0, 2.9, 5.0]], dtype=torch.float64)


def quantized(weight: Tensor, bits: int, bucket: int | None = 256) -> Tensor:
    quantizer = Uniform(bits, bucket)
    return quantizer.codes(weight, quantizer.grouping).value()


def random_weight(seed: int, rows: int, columns: int, size: float, shift: float) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_t(3, (rows, columns)) * size + shift * size)


weights = st.builds(
    random_weight,
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([1e-8, 0.04, 60.0]),
    st.sampled_from([0.0, -3.0, 50.0]),
)
each_bits = pytest.mark.parametrize("bits", range(1, 9))
some_bits, some_buckets = st.integers(1, 8), st.sampled_from([None, 1, 7, 40, 256])


def test_two_bits_by_hand() -> None:
    # Each bucket is a row: -0.5 to 1 in steps of 0.5 (0.3 is at 1.6 steps), and 2 to 5 in steps of 1.
    codes = Uniform(2, 4).codes(WEIGHT, Uniform(2, 4).grouping)
    assert codes.levels.tolist() == [[1, 2, 3, 0], [0, 0, 1, 3]]
    assert codes.levels.dtype == torch.uint8
    assert codes.scales.tolist() == [0.5, 1]
    assert codes.offsets is not None
    assert codes.offsets.tolist() == [-0.5, 2]
    assert codes.value().tolist() == [[0, 0.5, 1, -0.5], [2, 2, 3, 5]]


def test_a_short_last_bucket_is_padded_with_the_last_weight() -> None:
    # Buckets of 3 and 5 in steps of 1 and 3: [0, 0.3, 1], [-0.5, 2, 2], [2.9, 5, (5)].
    expected = [0, 1 / 3, 1, -0.5, 2, 2, 2.9, 5]
    torch.testing.assert_close(quantized(WEIGHT, 2, 3).flatten(), torch.tensor(expected, dtype=torch.float64))
    assert Uniform(2, 3).codes(WEIGHT, Uniform(2, 3).grouping).scales.shape == (3,)


def test_a_small_tensor_is_one_bucket_and_so_is_every_tensor_without_bucket_size() -> None:
    # -0.5 to 5 in one step: the middle is 2.25.
    expected = [[-0.5, -0.5, -0.5, -0.5], [-0.5, -0.5, 5, 5]]
    for bucket in (8, 9, 256, None):
        assert quantized(WEIGHT, 1, bucket).tolist() == expected


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("value", [0.0, -0.3, 7e5])
def test_a_constant_bucket_becomes_its_minimum(rounding: str, value: float) -> None:
    weight = torch.full((3, 5), value)
    quantizer = Uniform(4, 4, rounding)  # type: ignore[arg-type]
    codes = quantizer.codes(weight, quantizer.grouping)
    assert torch.equal(codes.value(), weight)
    assert not codes.levels.any()
    nearly = torch.linspace(0, 9e-11, 8, dtype=torch.float64)
    codes = quantizer.codes(nearly, MATRIX)
    assert not codes.levels.any()
    assert not codes.value().any()


@given(weights, some_bits, some_buckets)
@settings(deadline=None, max_examples=100)
def test_equals_an_independent_float64_computation(weight: Tensor, bits: int, bucket: int | None) -> None:
    expected = torch.tensor(bucketed(weight.numpy(), bits, bucket))
    torch.testing.assert_close(
        quantized(weight, bits, bucket), expected, rtol=1e-12, atol=1e-14 * float(weight.abs().max())
    )


@given(weights, some_bits, some_buckets)
@settings(deadline=None, max_examples=100)
def test_the_guarantees_of_the_docstring(weight: Tensor, bits: int, bucket: int | None) -> None:
    """In FP32: the error bounds of both roundings, and extremes that are levels, which gives idempotence."""
    single = weight.float()
    rounding = 2.0**-22 * single.abs().max()
    for name, bound in (("nearest", 0.5), ("stochastic", 1.0)):
        quantizer = Uniform(bits, bucket, name)  # type: ignore[arg-type]
        grouping = quantizer.grouping
        codes = quantizer.codes(single, grouping)
        assert int(codes.levels.max()) < 2**bits
        errors = grouping.split((codes.value() - single).abs())
        assert (errors <= (bound * (1 + 1e-5) * codes.scales + rounding)[:, None]).all()
    for before, after in zip(grouping.split(single), grouping.split(quantized(single, bits, bucket)), strict=True):
        assert after.min() == before.min()
        assert (after.max() - before.max()).abs() <= rounding


@given(weights, some_bits, some_buckets)
@settings(deadline=None, max_examples=100)
def test_it_is_idempotent(weight: Tensor, bits: int, bucket: int | None) -> None:
    quantizer = Uniform(bits, bucket)
    for values in (weight, weight.float()):
        codes = quantizer.codes(values, quantizer.grouping)
        again = quantizer.codes(codes.value(), quantizer.grouping)
        assert torch.equal(again.levels, codes.levels)
        ulp = torch.finfo(values.dtype).eps * values.abs().max()
        assert (again.value() - codes.value()).abs().max() <= 2 * ulp


@each_bits
def test_every_level_is_used(bits: int) -> None:
    weight = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    assert len(set(quantized(weight, bits, None).tolist())) == 2**bits


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_not_hidden(bad: float) -> None:
    weight = torch.zeros(3, 8)
    weight[1, 5] = bad
    value = quantized(weight, 4, 8)
    assert value[1].isnan().all()
    assert not value[[0, 2]].any()


def test_stochastic_rounding_draws_from_torch_s_generator() -> None:
    weight, quantizer = torch.randn(20, 20), Uniform(3, 64, "stochastic")
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(quantizer.codes(weight, quantizer.grouping).levels)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    nearest = Uniform(3, 64).codes(weight, quantizer.grouping).levels
    assert ((draws[0].int() - nearest.int()).abs() <= 1).all()


def latent(rows: int = 5, columns: int = 9) -> Tensor:
    """Float64 weights, some of them outside ±1."""
    return torch.tensor(np.random.default_rng(3).normal(0, 0.8, (rows, columns)), requires_grad=True)


def gradient(weight: Tensor, upstream: Tensor, **changes: object) -> Tensor:
    quantizer = StraightThrough.of(quantization(weights="uniform", **changes))
    grouping = quantizer.quantizer.grouping
    assert grouping is not None
    quantizer(weight, grouping).backward(upstream)  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    return weight.grad


def test_the_plain_gradient_is_the_incoming_gradient() -> None:
    upstream = torch.randn(5, 9, dtype=torch.float64)
    assert torch.equal(gradient(latent(), upstream, weight_clip=None), upstream)
    clipped = gradient(latent(), upstream, weight_clip=0.7)
    assert torch.equal(clipped, upstream.where(latent().abs() < 0.7, 0))


def test_the_truncated_gradient_clamps_to_one() -> None:
    upstream = torch.randn(5, 9, dtype=torch.float64)
    weight = latent().detach().clone()
    weight[0, :3] = torch.tensor([1.0, -1.0, 1.0 + 1e-12], dtype=torch.float64)
    grad = gradient(weight.requires_grad_(), upstream, gradient="truncated", weight_clip=None, bucket=16)
    assert torch.equal(grad, upstream.where(weight.abs() <= 1, 0))
    assert torch.equal(grad[0, :3] != 0, torch.tensor([True, True, False]))
    quantizer = StraightThrough.of(quantization(weights="uniform", gradient="truncated", weight_clip=None, bucket=16))
    expected = quantized(weight.detach().clamp(-1, 1), 4, 16)
    assert torch.equal(quantizer(weight, Uniform(4, 16).grouping), expected)
    assert torch.equal(quantizer.codes(weight, Uniform(4, 16).grouping).value(), expected)


def straight_through_in_autograd(weight: Tensor, bits: int, bucket: int) -> Tensor:
    """The formula of section 3 with a straight-through rounding; autograd computes the rest."""
    steps, out = 2**bits - 1, []
    for run in torch.split(weight.flatten(), bucket):
        low, high = run[run.argmin()], run[run.argmax()]
        alpha = high - low
        if alpha < 1e-10:
            out.append(run - run.detach() + low.detach())
            continue
        v = (run - low) / alpha
        rounded = v + ((steps * v).round() / steps - v).detach()
        out.append(alpha * rounded + low)
    return torch.cat(out).view_as(weight)


@pytest.mark.parametrize("bucket", [1, 4, 7, 44, 45, 60])
@each_bits
def test_the_complicated_gradient_is_autograds_gradient_of_the_formula(bits: int, bucket: int) -> None:
    """Also with a padded bucket whose last weight is an extreme, and with a constant bucket."""
    start = latent().detach()
    start[4, -1] = 9.0  # the maximum of the last bucket
    start[0, :8] = 0.3
    upstream = torch.tensor(np.random.default_rng(4).normal(0, 1, start.shape))
    wanted = start.clone().requires_grad_()
    expected = straight_through_in_autograd(wanted, bits, bucket)
    expected.backward(upstream)  # type: ignore[no-untyped-call]
    given_ = start.clone().requires_grad_()
    torch.testing.assert_close(quantized(start, bits, bucket), expected.detach())
    grad = gradient(given_, upstream, bits=bits, bucket=bucket, gradient="complicated", weight_clip=None)
    assert wanted.grad is not None
    torch.testing.assert_close(grad, wanted.grad, rtol=1e-10, atol=1e-12)
    assert bucket == 1 or bits > 7 or not torch.allclose(grad, upstream, atol=1e-3), "not the plain one"


def test_the_complicated_gradient_in_single_precision_and_with_a_clamp() -> None:
    weight = torch.tensor([[3.0, -0.2, 0.5, 0.9]], requires_grad=True)
    # Clamped to 2: steps of 2.2; levels 1, 0, 0, 0 (0.9 is half a step, rounded to even), δ = 0, 0, -0.7/2.2, -1.1/2.2.
    upstream = torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    grad = gradient(weight, upstream, bits=1, bucket=None, gradient="complicated", weight_clip=2.0)
    share = (-0.7 - 2 * 1.1) / 2.2
    torch.testing.assert_close(grad, torch.tensor([[0.0, 1 - share, 1, 2]]))
