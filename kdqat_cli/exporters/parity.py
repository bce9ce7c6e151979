"""Checks that an exported model gives the same answers as the student.

Rows are compared by their answer: the label with the largest logit, the labels that reach the threshold (multi-label),
or the number itself if the head gives one number.
Logits cannot be compared within a fixed distance. If an activation is within float error of a rounding boundary,
another engine may round it to the other side, and such differences add up through the layers. Two engines that compute
the same formula in FP32 differ by up to 0.08 on the film reviews of `movie`, where logits are within ±1.9. This noise
can change the label of rows on which the student is undecided.

The comparison finds gross errors. A small error, for example a missing bias in one layer (0.6 to 3 % of the labels), is
within the noise. The tests of the exporters, which compare without rounding, find small errors.

Labels are computed from the student's token ids, so they do not check a vocabulary. If an engine has its own tokenizer,
the ids that it gives for texts are compared too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import GateError, shown
from kdqat_cli.tasks.labels import reached

Batch = dict[str, NDArray[np.int64]]
"""Tokenised rows as inputs of a model: name of the input → (B, L), padded."""
Logits = NDArray[np.float32]

BOUND = 0.03
"""The share of rows that may differ. If activations are rounded differently or not at all, 0.2 to 1.0 % of the labels
change for a student that has learned its task (1,027 rows of `movie`), and up to 1.8 % for a student that has hardly
learned (277 rows of RTE, score 56). On `movie`, a lost mask changes 14 % of the labels, a wrong order of rows in all
FFN matrices 39 %, and a transposed pooler 70 %."""
TOKENS_BOUND = 0.01
"""The share of texts that may be split into other tokens, because of rare characters."""
NUMBER_TOLERANCE = 0.1
"""For a head with one number: a row differs if its number changes by more than this share of the student's standard
deviation."""


@dataclass(frozen=True)
class Parity:
    """The difference between two models.

    Attributes:
        rows: number of compared rows.
        differing: number of rows with another label or number, or other labels.
        largest: the largest difference of two logits.
        share: share of differing answers; a multi-label model answers once per row and label.
    """

    rows: int
    differing: int
    largest: float
    share: float


def compare(student: Logits, exported: Logits, threshold: float | None = None) -> Parity:
    """Compares logits (rows, labels) of the same rows.

    Args:
        student: logits of the student.
        exported: logits of the export.
        threshold: least probability of an answered label of a multi-label model; None: the model is not multi-label.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != exported.shape:
        raise ValueError(f"the export gives logits of shape {exported.shape}, but the student {student.shape}")
    distance = np.abs(student - exported)
    if threshold is not None:
        answers = reached(student, threshold) != reached(exported, threshold)
    elif student.shape[1] == 1:
        answers = distance > NUMBER_TOLERANCE * student.std()
    else:
        answers = (student.argmax(1) != exported.argmax(1))[:, None]
    # NaN is never a correct answer, whatever argmax returns for it.
    answers = answers | ~np.isfinite(exported).all(1, keepdims=True)
    return Parity(len(student), int(answers.any(1).sum()), float(distance.max()), float(answers.mean()))


def require(parity: Parity, name: str, bound: float = BOUND) -> None:
    """Fails if too many answers differ.

    Args:
        parity: the comparison.
        name: the name of the export in the error.
        bound: share of answers that may differ.

    Raises:
        GateError: more than `bound` of the answers differ.
    """
    if parity.share > bound:
        raise GateError(
            f"{name} gives other answers than the student on {parity.differing} of {parity.rows} rows, more than "
            f"{100 * bound:g} % of the answers (the largest difference of a logit is {parity.largest:.3g}); "
            "nothing was written."
        )


def require_tokens(
    texts: list[str], expected: list[list[int]], found: list[list[int]], name: str, bound: float = TOKENS_BOUND
) -> int:
    """Fails if too many texts are split into other tokens.

    Args:
        texts: the texts.
        expected: their ids from the student's tokenizer.
        found: their ids from the export's tokenizer.
        name: the name of the export in the error.
        bound: share of texts that may differ.

    Returns:
        The number of texts that differ.

    Raises:
        GateError: more than `bound` of the texts differ.
    """
    pairs = zip(texts, expected, found, strict=True)
    differing = [(text, ids, other) for text, ids, other in pairs if ids != other]
    if len(differing) > bound * len(texts):
        text, ids, other = min(differing, key=lambda difference: len(difference[0]))
        raise GateError(
            f"{name} splits {len(differing)} of {len(texts)} texts into other tokens than the student's tokenizer: "
            f"{shown(text)} becomes {shown(other)} instead of {shown(ids)}; nothing was written.",
            "--format onnx",
        )
    return len(differing)
