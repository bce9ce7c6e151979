"""The interface between `kdqat predict` and a model, for all kinds of rows. It does not import torch."""

from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.tasks.labels import reached
from kdqat_cli.texts import Text


class Answer(TypedDict, total=False):
    """The answer to a line: label or labels and probabilities, a value, a translation, or an error."""

    text: str
    """The line: a text, the path of a picture, a sentence."""
    pair: str
    """The second text of a pair."""
    label: str
    """The most probable class; missing where `--threshold` is above its probability."""
    labels: list[str]
    """The labels whose probability reaches the threshold; only for a multi-label model."""
    probabilities: dict[str, float]
    """Class name → its probability; in a multi-label model, each label has its own independent probability."""
    value: float
    """The number, for a regression."""
    translation: str
    """The translation of a sentence."""
    error: str
    """The reason why there is no answer."""


Gives = Literal["label", "labels", "value", "translation"]
"""The field of an answer that a model gives."""


class Answerer(Protocol):
    """A model that is ready to answer."""

    @property
    def gives(self) -> Gives:
        """The kind of its answers."""

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


def answer_of(labels: list[str] | None, logits: NDArray[np.float32], threshold: float | None = None) -> Answer:
    """Makes an answer from logits: label or labels and probabilities, or the value.

    Args:
        labels: names of the classes; None: regression.
        logits: logits (labels,) of one row; for a regression (1,).
        threshold: least probability of an answered label of a multi-label model; None: the model is not multi-label.
    """
    if not np.isfinite(logits).all():
        return {"error": "The model's answer is NaN or infinite."}
    exact = logits.astype(np.float64)
    if labels is None:
        return {"value": round(float(exact[0]), 6)}
    if threshold is not None:
        with np.errstate(over="ignore"):
            each = (1 / (1 + np.exp(-exact))).round(6).tolist()
        chosen = [name for name, found in zip(labels, reached(logits, threshold), strict=True) if found]
        return {"labels": chosen, "probabilities": dict(zip(labels, each, strict=True))}
    power = np.exp(exact - exact.max())
    probabilities = (power / power.sum()).round(6).tolist()
    return {"label": labels[int(exact.argmax())], "probabilities": dict(zip(labels, probabilities, strict=True))}


def with_threshold(answer: Answer, threshold: float | None) -> Answer:
    """An answer with another threshold than the model's own.

    Args:
        answer: answer of a model; an answer without probabilities is not changed.
        threshold: the smallest probability of an answered label. If a model gives one label per text, a text whose best
            label is below it gets no label. None: the model's own threshold; a model with one label per text has none.
    """
    probabilities = answer.get("probabilities")
    if probabilities is None or threshold is None:
        return answer
    if "labels" in answer:
        return {**answer, "labels": [label for label, one in probabilities.items() if one >= threshold]}
    return answer if max(probabilities.values()) >= threshold else Answer(probabilities=probabilities)


def with_top(answer: Answer, top: int | None) -> Answer:
    """An answer with only its `top` highest probabilities, the highest first; None: all of them."""
    probabilities = answer.get("probabilities")
    if probabilities is None or top is None:
        return answer
    return {**answer, "probabilities": dict(sorted(probabilities.items(), key=lambda entry: -entry[1])[:top])}
