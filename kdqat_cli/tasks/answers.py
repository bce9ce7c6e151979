"""The interface between `kdqat predict` and a model, for all kinds of rows. It does not import torch."""

from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.texts import Text


class Answer(TypedDict, total=False):
    """The answer to a line: label and probabilities, a value, a translation, or an error."""

    text: str
    """The line: a text, the path of a picture, a sentence."""
    pair: str
    """The second text of a pair."""
    label: str
    """The most probable class."""
    probabilities: dict[str, float]
    """Class name → its probability."""
    value: float
    """The number, for a regression."""
    translation: str
    """The translation of a sentence."""
    error: str
    """The reason why there is no answer."""


class Answerer(Protocol):
    """A model that is ready to answer."""

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes; None: the answer is a value or a translation."""

    @property
    def pairs(self) -> bool | None:
        """Whether its lines are pairs of texts; None: not recorded."""

    @property
    def remark(self) -> str | None:
        """A sentence for the user, or None."""

    def answers(self, batch: list[Text]) -> list[Answer]:
        """Answers each line of a batch; the answers do not repeat the lines.

        Raises:
            MissingInputError: the model fails, or is damaged.
        """


def answer_of(labels: list[str] | None, logits: NDArray[np.float32]) -> Answer:
    """Makes an answer of logits: label and probabilities, or the value.

    Args:
        labels: names of the classes; None: regression.
        logits: logits (labels,) of one row; for a regression (1,).
    """
    if not np.isfinite(logits).all():
        return {"error": "The model's answer is NaN or infinite."}
    exact = logits.astype(np.float64)
    if labels is None:
        return {"value": round(float(exact[0]), 6)}
    power = np.exp(exact - exact.max())
    probabilities = (power / power.sum()).round(6).tolist()
    return {"label": labels[int(exact.argmax())], "probabilities": dict(zip(labels, probabilities, strict=True))}
