"""The label of a row: a class by its name or its index, any number of classes (multi-label), or a number in a range.

A class name takes precedence. An index, from 0, is accepted only if no class name is a number: if the classes are 1 to
5, the label 0 is an error, not the class 1. Spaces around a name and its Unicode form (NFC or NFD, which depends on the
file system or the keyboard) are ignored; case is not.

A multi-label model gives each label a probability of its own, the sigmoid σ of its logit. A row has the labels whose
probability reaches one threshold t, the same for all labels. σ(x) >= t is computed as x >= log(t / (1 - t)), without an
exponential, so training, evaluation and serving decide alike.
"""

import math
import unicodedata

import numpy as np
from numpy.typing import NDArray

SEPARATOR = "|"
"""Separates the labels of a row in a cell, unless a task file names another character."""
THRESHOLD = 0.5
"""The threshold of a multi-label model that kdqat did not train."""


def reached(logits: NDArray[np.generic], threshold: float) -> NDArray[np.bool_]:
    """Which labels of each row have at least the given probability.

    Args:
        logits: (rows, labels) or (labels,).
        threshold: the probability, above 0 and below 1.
    """
    least = math.log(threshold / (1 - threshold))
    return logits.astype(np.float64) >= least


def plain(name: str) -> str:
    """The form in which class names are compared: without spaces around it, in Unicode form NFC."""
    return unicodedata.normalize("NFC", name.strip())


class Labels:
    """The labels that a task's rows may have."""

    def __init__(
        self,
        classes: list[str] | None,
        limits: list[float] | None,
        several: bool = False,
        separator: str = SEPARATOR,
    ) -> None:
        """Takes the fields `labels` and `range` of a task, of which one is None, `multi_label` and `separator`."""
        self._range, self._several, self._separator = limits, several, separator
        names = [plain(name) for name in classes or []]
        self._classes = {name: index for index, name in enumerate(names)}
        self._indices = {} if any(map(_is_number, names)) else {str(index): index for index in range(len(names))}

    def read(self, given: object, named: bool = False) -> int | float | list[float] | None:
        """The result of `value`; for a multi-label task 1 or 0 per class, or None.

        Args:
            given: the value in the row; for a multi-label task a list, or a cell with separators between labels.
            named: see `value`.
        """
        if not self._several:
            return self.value(given, named)
        if isinstance(given, str):
            given = given.split(self._separator) if given.strip() else []
        found = [self.value(one, named) for one in given] if isinstance(given, list) else [None]
        return None if None in found else [float(index in found) for index in range(len(self._classes))]

    def value(self, given: object, named: bool = False) -> int | float | None:
        """The class index or the number; None: the value is not a label of the task.

        Args:
            given: the value in the row.
            named: whether the value is certainly a class name, not an index.
        """
        if not isinstance(given, str | int | float):
            return None
        if self._range is not None:
            return self._number(given)
        spellings = [str(given), str(given).lower()] if isinstance(given, bool) else [str(given)]  # true in JSON
        known = self._classes if named else self._indices | self._classes
        return next((known[name] for name in map(plain, spellings) if name in known), None)

    def fault(self) -> str:
        """The end of the error sentence about a value that is not a label."""
        if self._range is not None:
            return "is not a number from {:g} to {:g}".format(*self._range)
        names = ", ".join(self._classes)
        if self._several:
            return f"is neither a list of labels nor labels with {self._separator} between them; the labels are {names}"
        return f"is unknown; the labels are {names}"

    def _number(self, given: str | float) -> float | None:
        lowest, highest = self._range or (0, 0)
        try:
            number = float(given)
        except (ValueError, OverflowError):
            return None
        return number if lowest <= number <= highest and not isinstance(given, bool) else None


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
