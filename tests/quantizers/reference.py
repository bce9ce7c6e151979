"""The formulas of spec/kdqat.md, sections 2 and 3, in float64 and with loops; tests compare the fast code with them."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def ternary(weight: Array, rowwise: bool) -> Array:
    """Section 2: m = mean|w|, Δ = 0.7·m, α = mean of the |w| above Δ (0 if there are none), q ∈ {-α, 0, α}."""
    weight = np.asarray(weight, dtype=np.float64)
    if rowwise:
        return np.stack([ternary(row[None], False)[0] for row in weight])
    values = weight.ravel().tolist()
    delta = 0.7 * (sum(abs(w) for w in values) / len(values))
    above = [abs(w) for w in values if abs(w) > delta]
    alpha = sum(above) / len(above) if above else 0.0
    codes = [(w > delta) - (w < -delta) for w in values]
    return np.array([alpha * code for code in codes]).reshape(weight.shape)


def threshold_is_clear(weight: Array, rowwise: bool) -> bool:
    """Whether no weight is so close to Δ that FP32 may put it on the other side."""
    magnitude = np.abs(np.asarray(weight, dtype=np.float64))
    delta = 0.7 * (magnitude.mean(axis=1, keepdims=True) if rowwise else magnitude.mean())
    return bool((np.abs(magnitude - delta) > 1e-5 * delta).all())


def uniform(weight: Array, rowwise: bool, bits: int) -> Array:
    """Symmetric, one step per matrix or row: s = max|w| / (2^(bits-1) - 1), round(w/s)·s; zeros stay zero."""
    weight = np.asarray(weight, dtype=np.float64)
    if rowwise:
        return np.stack([uniform(row[None], False, bits)[0] for row in weight])
    values = weight.ravel().tolist()
    largest = max(abs(w) for w in values)
    step = largest / (2 ** (bits - 1) - 1)
    return np.array([round(w / step) * step if largest else 0.0 for w in values]).reshape(weight.shape)


def bucketed(weight: Array, bits: int, bucket: int | None) -> Array:
    """Polino et al.: ŵ = α·round(n·v)/n + β in buckets of the flattened tensor, n = 2^bits - 1, v = (w - β)/α."""
    values = np.asarray(weight, dtype=np.float64).ravel().tolist()
    steps, size, out = 2**bits - 1, bucket or len(values), []
    for start in range(0, len(values), size):
        run = values[start : start + size]
        low, alpha = min(run), max(run) - min(run)
        alpha = 1.0 if alpha < 1e-10 else alpha
        out += [alpha * round(steps * (w - low) / alpha) / steps + low for w in run]
    return np.array(out).reshape(weight.shape)


REFERENCES: dict[str, Callable[[Array, bool], Array]] = {
    "ternary": ternary,
    "int4": partial(uniform, bits=4),
    "int8": partial(uniform, bits=8),
}


def eight_bit(values: Array, clip: float | None = None, shared: bool = False) -> Array:
    """Section 3: round(x·s)/s, s = 127 / max|x|, per vector of the last dimension, or (`shared`) of the tensor."""
    values = np.asarray(values, dtype=np.float64)
    if shared:
        return eight_bit(values.reshape(1, -1), clip).reshape(values.shape)
    out = np.zeros_like(values)
    for place in np.ndindex(values.shape[:-1]):
        vector = values[place] if clip is None else np.clip(values[place], -clip, clip)
        largest = np.abs(vector).max()
        if largest > 0:
            s = 127 / largest
            out[place] = np.round(vector * s) / s
    return out


def softmax(row: Array) -> Array:
    """The softmax of one vector."""
    power = np.exp(row - row.max())
    return np.asarray(power / power.sum())
