"""Stochastic rounding and the gradient of the range in the library, beside numpy, torch and float64 loops."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdqat_cli.native import fused
from kdqat_cli.native.library import kernels
from kdqat_cli.quantizers.codes import MATRIX, Grouping
from kdqat_cli.quantizers.uniform import CONSTANT, Uniform, range_gradient

pytestmark = pytest.mark.skipif(not kernels(), reason="the native library was not built")

Words = NDArray[np.uint32]
SEED = 0x123456789ABCDEF
BUCKETS = [1, 5, 16, 33, 100, 256, 2**16, 2**16 + 1, 300_000]
each_bucket = pytest.mark.parametrize("bucket", BUCKETS)


def philox(counters: NDArray[np.uint64], key: int) -> Words:
    """Philox 4x32-7 (Salmon et al., SC 2011): counters (N, 4) of 32 bits each → words (N, 4)."""
    a, b, c, d = (counters[:, i].copy() for i in range(4))
    low, low_key, high_key = np.uint64(2**32 - 1), key & 2**32 - 1, key >> 32
    for _ in range(7):
        p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (
            (q >> np.uint64(32)) ^ b ^ np.uint64(low_key),
            q & low,
            (p >> np.uint64(32)) ^ d ^ np.uint64(high_key),
            p & low,
        )
        low_key, high_key = (low_key + 0x9E3779B9) % 2**32, (high_key + 0xBB67AE85) % 2**32
    return np.stack([a, b, c, d], 1).astype(np.uint32)


def words(count: int, key: int) -> Words:
    """The words of a tensor's first values, as native/src/buckets.h orders them."""
    blocks = -(-count // 256)
    counters = np.zeros((64 * blocks, 4), np.uint64)
    counters[:, 0] = np.arange(64 * blocks)
    return philox(counters, key).reshape(blocks, 64, 4).transpose(0, 2, 1).reshape(-1)[:count]


def test_the_reference_gives_the_authors_known_answers() -> None:
    """The lines `philox4x32 7` of Random123's kat_vectors."""
    full = 2**32 - 1
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    answers = {
        ((0, 0, 0, 0), 0): "5f6fb709 0d893f64 4f121f81 4f730a48",
        ((full, full, full, full), 2**64 - 1): "5207ddc2 45165e59 4d8ee751 8c52f662",
        (tuple(pi), 0x299F31D0 << 32 | 0xA4093822): "4dfccaba 190a87f0 c47362ba b6b5242a",
    }
    for (counter, key), expected in answers.items():
        found = philox(np.array([counter], np.uint64), key)[0]
        assert " ".join(f"{word:08x}" for word in found) == expected


def weights() -> list[Tensor]:
    """Of several sizes, with a constant bucket, far from 0, close together, and with values that lie apart."""
    draw = torch.Generator().manual_seed(0)
    large = torch.randn(700, 333, generator=draw)
    large[0] = 0
    return [large, 0.01 * torch.randn(9, 1, generator=draw) + 3, large[:40, :31].mT, 1e-12 * large[:7, :9]]


@pytest.mark.parametrize("bits", [1, 4, 8])
@each_bucket
def test_a_draw_depends_on_seed_and_place_alone(kernel: str, threads: int, bits: int, bucket: int) -> None:
    """Level = ⌊t⌋ + 1 where the highest 24 bits of the word are below the fraction of t, on every kernel."""
    most = 2**bits - 1
    for weight in weights():
        size = min(bucket, weight.numel())
        levels, scales, offsets = fused.levels(weight, size, most, CONSTANT, SEED)
        flat = weight.contiguous().view(-1).numpy()
        group = np.arange(flat.size) // size
        step = np.where(scales.numpy() * most < CONSTANT, np.float32(np.inf), scales.numpy())[group]
        t = np.clip((flat - offsets.numpy()[group]) / step, 0, np.float32(most))
        drawn = (words(flat.size, SEED) >> 8).astype(np.float32) * np.float32(2**-24)
        expected = np.floor(t) + (drawn < t - np.floor(t))
        assert np.array_equal(levels.reshape(-1).numpy(), expected.astype(np.uint8))


def test_other_seeds_and_other_places_draw_independently(kernel: str) -> None:
    """Of weights halfway between two levels: the share of equal draws is a half, by 5 standard deviations."""
    weight = torch.full((2**17,), 0.5)
    weight[:2] = torch.tensor([0.0, 1.0])
    first, second, third = (fused.levels(weight, 2**17, 1, CONSTANT, seed)[0].bool() for seed in (1, 2, 2**32 + 1))
    pairs = [(first, second), (first, third), (second, third)]
    pairs += [(first[lag:], first[:-lag]) for lag in (1, 2, 4, 64, 128, 256, 1024, 2**16)]
    for one, other in pairs:
        assert abs(float((one == other).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(len(one))


def test_each_use_draws_another_seed(kernel: str) -> None:
    weight, quantizer = weights()[0], Uniform(3, 64, "stochastic")
    torch.manual_seed(1)
    first, second = (quantizer.codes(weight, quantizer.grouping).levels for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(quantizer.codes(weight, quantizer.grouping).levels, first)


def in_float64(grad: Tensor, latent: Tensor, value: Tensor, size: int) -> Tensor:
    """The formula of uniform.py with loops over buckets."""
    flat = [tensor.double().reshape(-1) for tensor in (grad, latent, value)]
    out = []
    for g, w, q in zip(*(torch.split(tensor, size) for tensor in flat), strict=True):
        runs = g.clone()
        width = w.max() - w.min()
        if width >= CONSTANT:
            share = (g * (q - w)).sum() / width
            runs[(w == w.max()).int().argmax()] += share  # argmax: the first of equal ones
            runs[(w == w.min()).int().argmax()] -= share
        out.append(runs)
    return torch.cat(out).view(grad.shape)


@each_bucket
def test_the_gradient_of_the_range_equals_float64_loops(kernel: str, threads: int, bucket: int) -> None:
    """With many equal extremes, too: of the rounded weights."""
    for weight in weights():
        if bucket <= 33:  # the loops are slow
            weight = weight[:3]
        for latent in (weight, (2 * weight).round()):
            grad = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
            size = min(bucket, latent.numel())
            value = Uniform(2, size).codes(latent, Grouping("bucket", size)).value()
            found = range_gradient(grad, latent, value, Grouping("bucket", size))
            moved = (grad * (value - latent)).abs().sum() / max(float(latent.max() - latent.min()), CONSTANT)
            torch.testing.assert_close(
                found.double(), in_float64(grad, latent, value, size), rtol=1e-5, atol=1e-6 * float(moved)
            )
            assert torch.equal(found, range_gradient(grad, latent, value, Grouping("bucket", size)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [20, 2**16 + 40])
def test_a_weight_that_is_not_finite_reaches_the_gradient(
    kernel: str, bad: float, dtype: torch.dtype, size: int
) -> None:
    weight = torch.randn(3, size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    weight[1, size - 1] = bad
    quantizer = Uniform(4, size, "stochastic")
    value = quantizer.codes(weight, quantizer.grouping).value()
    grad = range_gradient(torch.ones_like(weight), weight, value, quantizer.grouping)
    assert value[1].isnan().all()
    assert grad[1].isnan().any()
    assert value[[0, 2]].isfinite().all()
    assert grad[[0, 2]].isfinite().all()


def test_one_bucket_per_tensor_gives_torch_s_levels(kernel: str, threads: int) -> None:
    """A large tensor is divided among the threads."""
    weight = weights()[0]
    single = Uniform(8, None).codes(weight, MATRIX)
    low, high = weight.aminmax()
    assert single.offsets is not None
    assert single.offsets[0] == low
    assert single.scales[0] == (high - low) / 255
    assert torch.equal(single.levels, ((weight - low) / ((high - low) / 255)).round().to(torch.uint8))
