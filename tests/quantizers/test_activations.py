"""8-bit activations: by hand, against float64 loops, and the independence of a vector from all others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdqat_cli.quantizers.activations import ActivationQuantizer
from tests.quantizers.reference import eight_bit

FREE = ActivationQuantizer(bits=8, clip=None)
CLIPPED = ActivationQuantizer(bits=8, clip=2.5)
SHARED = ActivationQuantizer(bits=8, clip=None, scale="batch")
PAPER = ActivationQuantizer(bits=8, clip=2.5, scale="batch")


def random_values(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_t(3, shape) * size)


def test_a_vector_by_hand() -> None:
    # s = 1.27 / 127 = 0.01
    values = torch.tensor([1.27, 0.5, -0.304, 0.0049, -0.0051], dtype=torch.float64)
    expected = torch.tensor([1.27, 0.5, -0.30, 0.0, -0.01], dtype=torch.float64)
    torch.testing.assert_close(FREE(values), expected, rtol=1e-14, atol=0)


def test_a_batch_by_hand() -> None:
    values = torch.tensor([[[1.27, 0.5], [-0.304, 0.0049]], [[0.0, 0.0], [-0.0051, 0.008]]], dtype=torch.float64)
    # s = 1.27 / 127 = 0.01 for all eight values.
    expected = torch.tensor([[[1.27, 0.5], [-0.30, 0.0]], [[0.0, 0.0], [-0.01, 0.01]]], dtype=torch.float64)
    torch.testing.assert_close(SHARED(values), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(PAPER(values), expected, rtol=1e-14, atol=0)
    values[1, 0, 0] = -60
    # The clamp makes the scale constant: s = 2.5 / 127 = 0.01969. 1.27 is 64.5 s, 0.5 is 25.4 s, and 0.008 is 0.4 s.
    expected = torch.tensor([[[65, 25], [-15, 0]], [[-127, 0], [0, 0]]], dtype=torch.float64) * (2.5 / 127)
    values[0, 0, 0] = 1.28
    torch.testing.assert_close(PAPER(values), expected, rtol=1e-14, atol=0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 33), st.sampled_from([1e-6, 1.0, 60.0]))
@settings(deadline=None, max_examples=60)
def test_equals_an_independent_float64_computation(seed: int, rows: int, columns: int, size: float) -> None:
    values = random_values(seed, 2, rows, columns, size=size)
    for quantizer in (FREE, CLIPPED, SHARED, PAPER):
        expected = torch.tensor(eight_bit(values.numpy(), quantizer.clip, quantizer.scale == "batch"))
        torch.testing.assert_close(quantizer(values), expected, rtol=1e-13, atol=0)


@given(st.integers(0, 10**6), st.sampled_from([1e-6, 1.0, 60.0]))
@settings(deadline=None, max_examples=60)
def test_the_error_is_at_most_half_a_step(seed: int, size: float) -> None:
    values = random_values(seed, 6, 50, size=size).float()
    steps = values.abs().amax(-1, keepdim=True) / 127, values.abs().amax() / 127
    for quantizer, step in zip((FREE, SHARED), steps, strict=True):
        rounded = quantizer(values)
        assert rounded.dtype == torch.float32
        assert ((rounded - values).abs() <= step * (0.5 + 1e-4)).all()
        levels = rounded / step
        assert (levels - levels.round()).abs().max() < 1e-4
        assert levels.abs().max() < 127.001


@pytest.mark.parametrize("quantizer", [CLIPPED, PAPER])
def test_zeros_stay_zero(quantizer: ActivationQuantizer) -> None:
    values = torch.zeros(2, 3, 4, requires_grad=True)
    rounded = quantizer(values)
    assert torch.equal(rounded, torch.zeros(2, 3, 4))
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones(2, 3, 4))


def test_a_vector_of_zeros_does_not_change_the_others() -> None:
    mixed = random_values(0, 3, 4)
    mixed[1] = 0
    assert torch.equal(FREE(mixed), torch.stack([FREE(mixed[0]), torch.zeros(4), FREE(mixed[2])]).double())


@pytest.mark.parametrize("quantizer", [FREE, CLIPPED])
def test_a_vector_is_rounded_with_its_own_scale(quantizer: ActivationQuantizer) -> None:
    """Batch mates, padding and the number of tokens do not change one bit of it."""
    values = random_values(7, 4, 9, 32).float()
    together = quantizer(values)
    for row in range(4):
        for token in range(9):
            assert torch.equal(quantizer(values[row, token]), together[row, token])
    louder = values.clone()
    louder[:, 5:] *= 1000
    louder[3] = 1e6
    assert torch.equal(quantizer(louder)[:3, :5], together[:3, :5])


def test_a_batch_is_rounded_as_one() -> None:
    """The largest value anywhere, even in padding, sets the step of all values; its place does not matter."""
    values = random_values(7, 4, 9, 32).float()
    together = SHARED(values)
    louder = values.clone()
    louder[3, 8, 31] = 1000
    assert not torch.equal(SHARED(louder)[:3], together[:3])
    assert torch.equal(PAPER(louder)[0, 0], PAPER(values)[0, 0]), "both are clamped at 2.5"
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(SHARED(values.flatten()[order]), together.flatten()[order])
    assert torch.equal(SHARED(values[:1, :1]), FREE(values[:1, :1])), "a single token is its own batch"


def test_the_input_is_not_changed() -> None:
    values = random_values(1, 3, 5)
    before = values.clone()
    for quantizer in (FREE, CLIPPED, SHARED, PAPER):
        quantizer(values)
    assert torch.equal(values, before)


@pytest.mark.parametrize(("clipped", "free"), [(CLIPPED, FREE), (PAPER, SHARED)])
def test_the_gradient_is_straight_through_and_stops_at_the_clamp(
    clipped: ActivationQuantizer, free: ActivationQuantizer
) -> None:
    values = torch.tensor([[3.0, -2.5, 2.5, 2.499, 0.0], [-9.0, 0.1, 0.2, -2.4, 1.0]], requires_grad=True)
    upstream = torch.arange(1.0, 11.0).view(2, 5)
    clipped(values).backward(upstream)  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, upstream * torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]))
    values = values.detach().requires_grad_()
    free(values).backward(upstream)  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, upstream)


def test_fewer_bits_have_fewer_levels() -> None:
    values = torch.linspace(-1, 1, 101, dtype=torch.float64)
    assert len(set(ActivationQuantizer(bits=4, clip=None)(values).tolist())) == 15
    assert len(set(ActivationQuantizer(bits=2, clip=None)(values).tolist())) == 3
