"""Every available kernel against integer sums and float64: all tail sizes, extremes, rows and threads."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf

from kdqat_cli.engine.chain import Chain, activate, attend, quantize
from kdqat_cli.native.library import kernels
from kdqat_cli.quantizers.activations import ActivationQuantizer

pytestmark = pytest.mark.skipif(not kernels(), reason="the native library was not built")

KERNELS = kernels()
# Around the sizes of a group (16), of AVX2's sums before they are widened (256), and of BERT's layers; rows also around
# the number from which AVX2 uses tables instead of tiles.
INPUTS = [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 255, 256, 257, 272, 511, 768, 1025]
OUTPUTS = [1, 2, 15, 16, 17, 31, 33, 47, 48, 49, 64, 100]
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 20, 21, 32, 33, 45, 53, 64, 65, 127, 130, 513]


def random_codes(draw: np.random.Generator, outputs: int, inputs: int) -> NDArray[np.int8]:
    return draw.integers(-1, 2, (outputs, inputs)).astype(np.int8)


def whole_rows(draw: np.random.Generator, rows: int, inputs: int) -> NDArray[np.float32]:
    """Integers in ±127, with ±127 once in each row: the scale is 1, so the outputs are the integer sums."""
    values = draw.integers(-127, 128, (rows, inputs))
    values[np.arange(rows), draw.integers(0, inputs, rows)] = 127
    return values.astype(np.float32)


def product(codes: NDArray[np.int8], rows: NDArray[np.float32], kernel: str, threads: int) -> NDArray[np.float32]:
    chain = Chain(threads, kernel)
    chain.add(codes, 1.0)
    return chain(rows)


def exact(codes: NDArray[np.int8], rows: NDArray[np.float32]) -> NDArray[np.int64]:
    out: NDArray[np.int64] = rows.astype(np.int64) @ codes.astype(np.int64).T
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_exact_at_every_tail(kernel: str, threads: int) -> None:
    draw = np.random.default_rng(0)
    rows = itertools.cycle(ROWS)
    for inputs, outputs in itertools.product(INPUTS, OUTPUTS):
        codes, values = random_codes(draw, outputs, inputs), whole_rows(draw, min(next(rows), 70), inputs)
        assert np.array_equal(product(codes, values, kernel, threads), exact(codes, values)), (inputs, outputs)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_are_exact_for_any_number_of_rows(kernel: str, threads: int) -> None:
    draw = np.random.default_rng(1)
    codes = random_codes(draw, 49, 90)
    chain = Chain(threads, kernel)
    chain.add(codes, 1.0)
    for rows in ROWS:
        values = whole_rows(draw, rows, 90)
        assert np.array_equal(chain(values), exact(codes, values)), rows


@pytest.mark.parametrize("kernel", KERNELS)
def test_products_are_exact_for_many_outputs(kernel: str) -> None:
    """More outputs than the sums that AVX2 keeps in one pass over the inputs (96 panels of 16)."""
    draw = np.random.default_rng(9)
    for inputs, outputs, rows in ((90, 1537, 33), (300, 3072, 16), (600, 1603, 64)):
        codes, values = random_codes(draw, outputs, inputs), whole_rows(draw, rows, inputs)
        assert np.array_equal(product(codes, values, kernel, 2), exact(codes, values)), (inputs, outputs, rows)


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_do_not_overflow(kernel: str) -> None:
    """Codes of one sign times ±127 give the largest possible sums."""
    for inputs in (256, 512, 3072, 4100):
        codes = np.repeat(np.array([[1], [-1], [0]], dtype=np.int8), inputs, axis=1)
        values = np.stack([np.full(inputs, sign * 127.0, dtype=np.float32) for sign in (1, -1)])
        alternating = np.where(np.arange(inputs) % 2, 127, -127).astype(np.float32)
        values = np.vstack([values, alternating, np.roll(alternating, 1)])
        for codes_of in (codes, np.repeat(codes, 25, axis=0)):
            for rows in (values, np.tile(values, (3, 1)), np.tile(values, (9, 1))):
                assert np.array_equal(product(codes_of, rows, kernel, 1), exact(codes_of, rows))


@pytest.mark.parametrize("kernel", KERNELS)
def test_scale_bias_and_activation(kernel: str) -> None:
    draw = np.random.default_rng(2)
    codes, bias = random_codes(draw, 37, 50), draw.standard_normal(37).astype(np.float32)
    rows = draw.standard_normal((11, 50)).astype(np.float32)
    values, scales, _ = quantize(kernel, rows)
    expected = (values.astype(np.float64) * scales[:, None]) @ codes.T.astype(np.float64) * 0.37 + bias
    outputs = {"none": expected, "relu": np.maximum(expected, 0), "tanh": np.tanh(expected)}
    for name, values_wanted in outputs.items():
        chain = Chain(1, kernel)
        chain.add(codes, 0.37, bias, name)
        np.testing.assert_allclose(chain(rows), values_wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_chain_passes_its_rows_to_the_next_layer(kernel: str) -> None:
    draw = np.random.default_rng(3)
    sizes, rows = [40, 17, 96, 5], draw.standard_normal((90, 40)).astype(np.float32)
    chains, expected = [Chain(threads, kernel) for threads in (1, 2)], rows
    for inputs, outputs in itertools.pairwise(sizes):
        codes = random_codes(draw, outputs, inputs)
        for chain in chains:
            chain.add(codes, 0.5)
        one = Chain(1, kernel)
        one.add(codes, 0.5)
        expected = one(expected)
    for chain in chains:
        assert np.array_equal(chain(rows), expected)
        assert np.array_equal(chain(rows[:7]), expected[:7]), "few rows: the outputs are divided among threads"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("clip", [None, 0.8])
def test_the_quantiser_equals_that_of_the_student(kernel: str, clip: float | None) -> None:
    """Bit for bit: value · scale equals what training and evaluation compute."""
    draw = np.random.default_rng(4)
    quantizer = ActivationQuantizer(bits=8, clip=clip)
    for width in (1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 100, 768):
        rows = draw.standard_normal((20, width)).astype(np.float32)
        rows[0] = 0
        rows[1] = 1.7
        rows[2] *= 1e-39  # below the smallest normal number
        rows[3] *= 1e30
        rows[4] = np.rint(rows[4] * 20) / 2  # halves: ties at a scale of 1
        rows[4, 0] = 127
        values, scales, sums = quantize(kernel, rows, math.inf if clip is None else clip)
        expected = quantizer(torch.from_numpy(rows)).numpy()
        assert np.array_equal(values.astype(np.float32) * scales[:, None], expected), width
        assert np.array_equal(sums, values.sum(1, dtype=np.int32))
        assert not values[0].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_between_two_steps_are_rounded_like_a_division(kernel: str) -> None:
    """Half steps and their neighbours; a product with the inverse would round some of them to the other side."""
    draw = np.random.default_rng(7)
    for smallest in (1e-38, 1e-20, 1.0, 1e30):
        largest = (draw.uniform(1, 1000, (500, 1)) * smallest).astype(np.float32)
        steps = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
        halves = np.arange(-126.5, 127).astype(np.float32) * steps
        ups, downs = (np.nextafter(halves, np.float32(end)) for end in (np.inf, -np.inf))
        rows = np.hstack([largest, halves, ups, downs])
        values, scales, _ = quantize(kernel, rows)
        assert np.array_equal(scales, steps[:, 0])
        assert np.array_equal(values, np.rint(rows / steps))


@pytest.mark.parametrize("kernel", KERNELS)
def test_activation_functions_against_float64(kernel: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 100_001), [-1e30, -100, 100, 1e4, 0.0, -0.0, 1e-30]]).astype(np.float32)
    wide = x.astype(np.float64)
    tail = wide / 2 * (1 + erf(wide / math.sqrt(2)))
    tanh = wide / 2 * (1 + np.tanh(np.sqrt(2 / math.pi) * (wide + 0.044715 * np.clip(wide, -1e9, 1e9) ** 3)))
    for name, expected in {"gelu": tail, "gelu_tanh": tanh, "relu": np.maximum(wide, 0)}.items():
        error = np.abs(activate(kernel, x, name) - expected)
        assert (error <= 3e-7 * np.maximum(np.abs(expected), 1)).all(), name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("clip", [math.inf, 0.1])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_against_float64(kernel: str, clip: float, biased: bool) -> None:
    draw = np.random.default_rng(5)
    sizes = [(1, 1), (2, 3), (5, 8), (15, 6), (16, 32), (17, 33), (31, 64), (50, 20), (130, 64)]
    for length, size in sizes:
        heads = [draw.integers(-127, 128, (length, size)).astype(np.int8) for _ in range(3)]
        heads[1][0] = -127
        scales = [draw.random(length).astype(np.float32) / 100 for _ in range(3)]
        relative = draw.standard_normal(2 * length - 1).astype(np.float32) if biased else None
        query, key, value = (
            head.astype(np.float64) * scale[:, None] for head, scale in zip(heads, scales, strict=True)
        )
        scores = query @ key.T * 0.4
        if relative is not None:
            scores += relative[np.arange(length)[None] - np.arange(length)[:, None] + length - 1]
        maps = np.exp(scores - scores.max(1, keepdims=True))
        maps = np.minimum(maps / maps.sum(1, keepdims=True), clip)
        steps = maps.max(1, keepdims=True) / 127
        expected = np.rint(maps / steps) * steps @ value
        out = attend(kernel, tuple(heads), tuple(scales), 0.4, clip, relative)  # type: ignore[arg-type]
        # A probability between two steps may rarely be rounded the other way, which changes one value by one step.
        slack = steps * np.abs(value).max() * 1.01
        assert (np.abs(out - expected) <= 1e-5 + slack).all(), (length, size)
        assert np.median(np.abs(out - expected)) < 1e-5, (length, size)


def test_kernels_agree_bit_for_bit_on_integers() -> None:
    draw = np.random.default_rng(6)
    codes, rows = random_codes(draw, 60, 300), whole_rows(draw, 40, 300)
    results = [product(codes, rows, kernel, 2) for kernel in KERNELS]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_chain_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="this CPU cannot run"):
        Chain(1, "abacus")
    for threads in (0, -1):
        with pytest.raises(ValueError, match="number of threads"):
            Chain(threads)
    chain = Chain()
    with pytest.raises(ValueError, match="nothing to compute"):
        chain(np.ones((1, 4), dtype=np.float32))
    chain.add(np.ones((3, 4), dtype=np.int8), 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        chain.add(np.ones((3, 4), dtype=np.int8), 1.0)
