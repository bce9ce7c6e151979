"""Appendix B of Polino et al. (ICLR 2018): the guarantees of stochastic rounding, tested by statistics.

With n steps, ℓ = ⌊n·v⌋ and p = n·v - ℓ, for v in [0, 1]:

    E[q] = v                                   Var[q] = p(1 - p)/n²
    E[q²] = (n·v(1 + 2ℓ) - ℓ(ℓ + 1))/n²                          between ℓ²/n² and (ℓ + 1)²/n²
    E[q³] = (n·v(3ℓ² + 3ℓ + 1) - ℓ(2ℓ² + 3ℓ + 1))/n³             between ℓ³/n³ and (ℓ + 1)³/n³
    |Q(w) - w| ≤ α/n
    (Σ Q(w)·x - Σ w·x)/s → N(0, 1), s² = Σ Var[Q(w)·x], also if x is quantised independently

In float64 torch computes, in FP32 the native library if it was built. Each test computes a p-value and fails below
`FALSE_ALARM`. Correct code fails with that probability for a random seed; the seeds are fixed, so a test passes
always or never. Each test must also fail for quantisers that are wrong:

    nearest    deterministic
    squared    rounds up with probability p² instead of p
    wide       correct on average, but rounds to levels that are one further away: ℓ - 1 and ℓ + 2
    beyond     one level above the correct one
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chi2, kstest
from torch import Tensor

from kdqat_cli.quantizers.codes import MATRIX, Grouping
from kdqat_cli.quantizers.uniform import Uniform

Array = npt.NDArray[np.float64]
FALSE_ALARM = 1e-6
DRAWS = 10_000
REPEATS, LENGTH, BUCKET = 3000, 768, 256


class Squared(Uniform):
    """Rounds up too rarely."""

    def _rounded(self, steps: Tensor) -> Tensor:
        up = torch.rand_like(steps) < steps.frac().square()
        return steps.floor() + up


class Wide(Uniform):
    """Rounds to ℓ - 1 or ℓ + 2, with the correct mean, if both are levels."""

    def _rounded(self, steps: Tensor) -> Tensor:
        inside = (steps >= 1) & (steps < self.levels[-1] - 1)
        far = steps.floor() - 1 + 3 * (torch.rand_like(steps) < (steps.frac() + 1) / 3)
        return torch.where(inside, far, super()._rounded(steps.clone()))


class Beyond(Uniform):
    """Rounds one level too high, if there is a higher level."""

    def _rounded(self, steps: Tensor) -> Tensor:
        return super()._rounded(steps).add_(1).clamp_(max=self.levels[-1])


MAKERS: dict[str, Callable[[int, int | None], Uniform]] = {
    "stochastic": lambda bits, bucket: Uniform(bits, bucket, "stochastic"),
    "nearest": lambda bits, bucket: Uniform(bits, bucket),
    "squared": lambda bits, bucket: Squared(bits, bucket, "stochastic"),
    "wide": lambda bits, bucket: Wide(bits, bucket, "stochastic"),
    "beyond": lambda bits, bucket: Beyond(bits, bucket, "stochastic"),
}
each_bits = pytest.mark.parametrize("bits", [2, 4, 8])
each_type = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "fp32"])


def single(values: Array) -> Array:
    """Numbers that FP32 has, in float64."""
    return values.astype(np.float32).astype(np.float64)


def draws(name: str, bits: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Array, Array]:
    """Numbers v (values,) that are not levels, and DRAWS quantised values q (values, DRAWS) of each."""
    torch.manual_seed(seed)
    v = single(np.random.default_rng(seed).uniform(0, 1, 40))
    row = torch.tensor(v)[:, None].expand(-1, DRAWS)
    weight = torch.cat([row.flatten(), torch.tensor([0.0, 1.0], dtype=torch.float64)])  # β = 0, α = 1
    q = MAKERS[name](bits, None).codes(weight.to(dtype), MATRIX).value()
    return v, q[:-2].view(row.shape).double().numpy()


def moment(v: Array, bits: int, power: int) -> tuple[Array, Array]:
    """The mean of q^power by the formula of the appendix, and its variance from the two possible values of q."""
    n = 2**bits - 1
    low = np.floor(n * v)
    p = n * v - low
    mean = {
        1: v,
        2: (n * v * (1 + 2 * low) - low * (low + 1)) / n**2,
        3: (n * v * (3 * low**2 + 3 * low + 1) - low * (2 * low**2 + 3 * low + 1)) / n**3,
    }[power]
    return mean, p * (1 - p) * (((low + 1) / n) ** power - (low / n) ** power) ** 2


def p_value(q: Array, mean: Array, variance: Array, power: int) -> float:
    """The p-value of the squared distances of sample means from `mean`: χ², one degree of freedom per number."""
    z = ((q**power).mean(1) - mean) / np.sqrt(variance / q.shape[1])
    return float(chi2.sf((z**2).sum(), len(z)))


@each_bits
@each_type
@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_moments_agree_with_the_appendix(power: int, bits: int, dtype: torch.dtype) -> None:
    v, q = draws("stochastic", bits, dtype=dtype)
    mean, variance = moment(v, bits, power)
    assert p_value(q, mean, variance, power) > FALSE_ALARM
    for wrong in ("nearest", "squared"):
        assert p_value(draws(wrong, bits)[1], mean, variance, power) < FALSE_ALARM, wrong


@each_bits
def test_the_second_and_third_moment_show_what_the_mean_does_not(bits: int) -> None:
    v, q = draws("wide", bits)
    n = 2**bits - 1
    low, p = np.floor(n * v), n * v - np.floor(n * v)
    inside = (low >= 1) & (low < n - 1)
    assert inside.sum() > 10
    far = (p + 1) * (2 - p) / n**2  # its own variance
    assert p_value(q[inside], v[inside], far[inside], 1) > FALSE_ALARM, "it is correct on average"
    for power in (2, 3):
        mean, variance = moment(v, bits, power)
        assert p_value(q, mean, variance, power) < FALSE_ALARM


@each_bits
@each_type
@pytest.mark.parametrize("power", [2, 3])
def test_moments_lie_between_their_bounds(power: int, bits: int, dtype: torch.dtype) -> None:
    n = 2**bits - 1
    v = np.linspace(0, 1, 5001)[:-1]
    low = np.floor(n * v)
    mean, _ = moment(v, bits, power)
    assert (mean >= low**power / n**power - 1e-12).all()
    assert (mean <= (low + 1) ** power / n**power + 1e-12).all()

    rounding = 4 * torch.finfo(dtype).eps

    def kept(name: str, dtype: torch.dtype = torch.float64) -> bool:
        v, q = draws(name, bits, dtype=dtype)
        low, sample = np.floor(n * v), (q**power).mean(1)
        within = (sample >= (low / n) ** power - rounding) & (sample <= ((low + 1) / n) ** power + rounding)
        return bool(within.all())

    assert kept("stochastic", dtype)
    assert not kept("beyond")


@each_bits
@each_type
def test_no_number_changes_by_more_than_a_step(bits: int, dtype: torch.dtype) -> None:
    weight = torch.randn(300, 100, generator=torch.Generator().manual_seed(1))
    rounding = 2**bits * 10 * torch.finfo(dtype).eps

    def farthest(name: str, dtype: torch.dtype = torch.float64) -> float:
        torch.manual_seed(2)
        codes = MAKERS[name](bits, BUCKET).codes(weight.to(dtype), Grouping("bucket", BUCKET))
        moved = codes.grouping.split((codes.value() - weight.to(dtype)).abs()) / codes.scales[:, None]
        return float(moved.max())

    assert 0.9 < farthest("stochastic", dtype) <= 1 + rounding
    assert 0.4 < farthest("nearest", dtype) <= 0.5 + rounding
    assert farthest("wide") > 1.5


def variances(values: Array, bits: int) -> Array:
    """Var[Q(w)] = p(1 - p)(α/n)² of every number, in buckets."""
    out = []
    for bucket in np.split(values, range(BUCKET, len(values), BUCKET)):
        step = (bucket.max() - bucket.min()) / (2**bits - 1)
        p = (bucket - bucket.min()) / step % 1
        out.append(p * (1 - p) * step**2)
    return np.concatenate(out)


def repeated(name: str, values: Array, bits: int, seed: int, dtype: torch.dtype = torch.float64) -> Array:
    """Independent quantisations (REPEATS, LENGTH) of the same numbers, which fill whole buckets."""
    torch.manual_seed(seed)
    rows = torch.tensor(values).to(dtype).expand(REPEATS, -1)
    value: Array = MAKERS[name](bits, BUCKET).codes(rows, Grouping("bucket", BUCKET)).value().double().numpy()
    return value


def numbers() -> tuple[Array, Array]:
    draw = np.random.default_rng(5)
    return single(draw.normal(0, 1, LENGTH).clip(-3, 3)), single(draw.normal(0.2, 1, LENGTH).clip(-3, 3))


def p_of_normality(sums: Array, expected: float, variance: float) -> float:
    """The p-value of Kolmogorov and Smirnov's test of (sums - expected)/√variance against N(0, 1)."""
    return float(kstest((sums - expected) / np.sqrt(variance), "norm").pvalue)


@each_bits
@each_type
def test_the_dot_product_is_normal(bits: int, dtype: torch.dtype) -> None:
    w, x = numbers()
    variance = float((variances(w, bits) * x**2).sum())
    assert p_of_normality(repeated("stochastic", w, bits, 6, dtype) @ x, float(w @ x), variance) > FALSE_ALARM
    for wrong in ("nearest", "squared", "wide"):
        assert p_of_normality(repeated(wrong, w, bits, 6) @ x, float(w @ x), variance) < FALSE_ALARM, wrong


@each_bits
@each_type
def test_the_dot_product_with_quantised_inputs_is_normal(bits: int, dtype: torch.dtype) -> None:
    w, x = numbers()
    of_w, of_x = variances(w, bits), variances(x, bits)
    variance = float((of_w * of_x + w**2 * of_x + x**2 * of_w).sum())

    def sums(name: str, dtype: torch.dtype = torch.float64) -> Array:
        total: Array = (repeated(name, w, bits, 7, dtype) * repeated(name, x, bits, 8, dtype)).sum(1)
        return total

    assert p_of_normality(sums("stochastic", dtype), float(w @ x), variance) > FALSE_ALARM
    for wrong in ("nearest", "squared", "wide"):
        assert p_of_normality(sums(wrong), float(w @ x), variance) < FALSE_ALARM, wrong
    # With the same draws for both, the mean of the squares would be different.
    same = repeated("stochastic", w, bits, 9, dtype)
    squares = float((4 * w**2 * of_w).sum())
    assert bits == 8 or p_of_normality((same**2).sum(1), float(w @ w), squares) < FALSE_ALARM


@each_bits
@each_type
def test_numbers_on_levels_have_no_variance(bits: int, dtype: torch.dtype) -> None:
    """The theorem does not apply to such numbers: every draw is the number itself."""
    n = 2**bits - 1
    w = np.random.default_rng(3).integers(0, n + 1, LENGTH).astype(np.float64)
    w[::BUCKET], w[1::BUCKET] = 0, n  # each bucket has steps of 1
    assert not variances(w, bits).any()
    assert (repeated("stochastic", w, bits, 10, dtype)[:50] == w).all()
