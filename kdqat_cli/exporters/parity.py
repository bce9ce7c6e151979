"""Whether an exported model still says what the student says.

Rows are compared by what they are used for: the label with the largest logit or, where the head gives a single
number, the number itself. Logits as such cannot be held to a fixed distance. An activation within float error of a
rounding boundary falls on its other side on another engine, and such flips add up through the layers: two engines that
compute the very same formula in FP32 differ by up to 0.08 on the film reviews of `movie`, whose logits lie within ±1.9.
What such noise can change is the label of rows on which the student is undecided.

The comparison is a gate against gross errors. Within its noise stays a small one, such as the lost bias of one layer
(0.6 to 3 % of the labels); the exporters' tests, which compare without rounding, are there for those.

Labels are computed from the student's ids, and say nothing about a vocabulary. An engine with a tokenizer of its own is
therefore compared by the ids too that it gives to texts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import GateError, shown

Batch = dict[str, NDArray[np.int64]]
"""Tokenised rows as a model takes them: name of the input → (B, L), padded."""
Logits = NDArray[np.float32]

BOUND = 0.03
"""Share of rows that may differ. Activations rounded elsewhere or not at all move 0.2 to 1.0 % of the labels of a
student that has learned its task (1,027 rows of `movie`), and up to 1.8 % of one that hardly has (277 rows of RTE,
score 56). Of `movie`, a mask that is lost moves 14 %, rows of all FFN matrices in a wrong order 39 %, the pooler
transposed 70 %."""
TOKENS_BOUND = 0.01
"""Share of texts that may be split into other tokens: those with rare characters."""
NUMBER_TOLERANCE = 0.1
"""A head of one number: a row differs where it moves by more than this share of the student's standard deviation."""


@dataclass(frozen=True)
class Parity:
    """How far two models are apart.

    Attributes:
        rows: rows compared.
        differing: rows with another label (or, of a single number, another value).
        largest: the largest difference of two logits.
    """

    rows: int
    differing: int
    largest: float


def compare(student: Logits, exported: Logits) -> Parity:
    """Compares logits (rows, labels) of the same rows.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != exported.shape:
        raise ValueError(f"logits of shape {exported.shape}, where the student gives {student.shape}")
    distance = np.abs(student - exported)
    if student.shape[1] == 1:
        differing = distance[:, 0] > NUMBER_TOLERANCE * student.std()
    else:
        differing = student.argmax(1) != exported.argmax(1)
    # Not a number is no answer, whatever argmax makes of it.
    differing |= ~np.isfinite(exported).all(1)
    return Parity(len(student), int(differing.sum()), float(distance.max()))


def require(parity: Parity, name: str, bound: float = BOUND) -> None:
    """Fails where too many rows differ.

    Args:
        parity: the comparison.
        name: what the error calls the export.
        bound: share of rows that may differ.

    Raises:
        GateError: more than `bound` of the rows differ.
    """
    if parity.differing > bound * parity.rows:
        raise GateError(
            f"{name} disagrees with the student on {parity.differing} of {parity.rows} rows, more than "
            f"{100 * bound:g} % of them (largest difference of a logit {parity.largest:.3g}); nothing was written."
        )


def require_tokens(
    texts: list[str], expected: list[list[int]], found: list[list[int]], name: str, bound: float = TOKENS_BOUND
) -> int:
    """Fails where too many texts become other tokens.

    Args:
        texts: what both split.
        expected: ids by the student's tokenizer.
        found: ids by the export's.
        name: what the error calls the export.
        bound: share of texts that may differ.

    Returns:
        How many texts differ.

    Raises:
        GateError: more than `bound` of the texts differ.
    """
    pairs = zip(texts, expected, found, strict=True)
    differing = [(text, ids, other) for text, ids, other in pairs if ids != other]
    if len(differing) > bound * len(texts):
        text, ids, other = min(differing, key=lambda difference: len(difference[0]))
        raise GateError(
            f"{name} splits {len(differing)} of {len(texts)} texts into other tokens than the student's tokenizer: of "
            f"{shown(text)} it makes {shown(other)}, not {shown(ids)}; nothing was written.",
            "--format onnx",
        )
    return len(differing)
