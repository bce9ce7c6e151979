"""The losses of spec/kdqat.md, section 4, in float64 and with loops, and random layers as their inputs."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdqat_cli.networks.captures import Captures

Array = npt.NDArray[np.float64]
LayerLoss = Callable[..., Tensor]
Reference = Callable[[list[Array], list[Array], Array], float]

ROWS, LENGTH, HEADS, SIZE, LAYERS = 4, 7, 2, 3, 3
TIGHT = 1e-7  # in float64; the map loss computes the sentences' shares in FP32

MASKS = {
    "whole rows": np.ones((ROWS, LENGTH), dtype=bool),
    "odd lengths": np.arange(LENGTH) < np.array([[7], [3], [1], [5]]),
    "padding on the left": np.arange(LENGTH) >= np.array([[0], [4], [6], [2]]),
    "a hole": np.array([[1, 1, 0, 1, 0, 0, 1]] * 2 + [[0, 1, 1, 1, 1, 1, 0]] * 2, dtype=bool),
    "a row of padding": np.arange(LENGTH) < np.array([[7], [0], [4], [2]]),
    "padding alone": np.zeros((ROWS, LENGTH), dtype=bool),
}


# Section 4 of the spec, in this form: padding is removed from each sentence, so nothing needs a mask.


def hidden_reference(student: list[Array], teacher: list[Array], mask: Array) -> float:
    """Σ over layers of the MSE over all real tokens."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        squares = [float(x) ** 2 for row in range(ROWS) for x in (s[row] - t[row])[mask[row]].ravel()]
        total += sum(squares) / len(squares) if squares else 0.0
    return total


def score_reference(student: list[Array], teacher: list[Array], mask: Array) -> float:
    """Eq. 5: Σ over layers of the MSE over all real (query, key) pairs."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        squares: list[float] = []
        for row in range(ROWS):
            real = np.flatnonzero(mask[row])
            for head in range(HEADS):
                squares += [float(s[row, head, i, j] - t[row, head, i, j]) ** 2 for i in real for j in real]
        total += sum(squares) / len(squares) if squares else 0.0
    return total


def map_reference(student: list[Array], teacher: list[Array], mask: Array) -> float:
    """Eq. 6 with the code's normalisation: KL(AM_T ‖ AM_S), ÷ length, mean over heads and sentences."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        sentences = []
        for row in range(ROWS):
            real = np.flatnonzero(mask[row])
            if not len(real):
                continue
            divergence = 0.0
            for head in range(HEADS):
                for query in real:
                    p, q = (np.exp(x[row, head, query, real]) / np.exp(x[row, head, query, real]).sum() for x in (t, s))
                    divergence += float((p * (np.log(p) - np.log(q))).sum())
            sentences.append(divergence / len(real) / HEADS)
        total += sum(sentences) / len(sentences) if sentences else 0.0
    return total


def layers(seed: int, shape: tuple[int, ...]) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [draw.normal(0, 1.5, shape) for _ in range(LAYERS)]


def tensors(arrays: list[Array], dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
    return [torch.tensor(array, dtype=dtype, requires_grad=grad) for array in arrays]


def slope(function: Callable[[], float], values: Array, step: float = 1e-5) -> Array:
    """The gradient by central differences; `function` depends on `values`."""
    gradient = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        held = values[place]
        values[place] = held + step
        above = function()
        values[place] = held - step
        gradient[place] = (above - function()) / (2 * step)
        values[place] = held
    return gradient


def logits_reference(student: Array, teacher: Array) -> float:
    if student.shape[1] == 1:
        return sum(float(s - t) ** 2 for s, t in zip(student[:, 0], teacher[:, 0], strict=True)) / len(student)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total -= float((np.exp(t) / np.exp(t).sum() * np.log(np.exp(s) / np.exp(s).sum())).sum())
    return total / len(student)


def both_sides() -> tuple[Captures, Captures]:
    """The captures of a student and a teacher."""

    def side(seed: int) -> Captures:
        hidden, scores = layers(seed, (ROWS, LENGTH, SIZE)), layers(seed + 1, (ROWS, HEADS, LENGTH, LENGTH))
        extra = layers(seed + 2, (ROWS, LENGTH, SIZE))[:1]
        outputs, mha = (tensors(layers(seed + number, (ROWS, LENGTH, SIZE))) for number in (3, 4))
        return Captures(tensors(hidden + extra), tensors(scores), outputs, mha)

    return side(10), side(20)


def arrays(values: list[Tensor]) -> list[Array]:
    return [tensor.numpy() for tensor in values]
