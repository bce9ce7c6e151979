"""A row's label: a class by its name or its index, or a number in a range.

A class name goes first. An index, counted from 0, is accepted only where no class name is a number: among the classes
1 to 5, a row's 0 is wrong rather than the class 1. Spaces around a name do not count, nor does its Unicode form (file
systems and keyboards differ in it: NFC or NFD); case does.
"""

import unicodedata


def plain(name: str) -> str:
    """A class name as it is compared: without spaces around it, in Unicode form NFC."""
    return unicodedata.normalize("NFC", name.strip())


class Labels:
    """The labels that a task's rows may have."""

    def __init__(self, classes: list[str] | None, limits: list[float] | None) -> None:
        """Takes a task's `labels` and `range`, of which one is None."""
        self._range = limits
        names = [plain(name) for name in classes or []]
        self._classes = {name: index for index, name in enumerate(names)}
        self._indices = {} if any(map(_is_number, names)) else {str(index): index for index in range(len(names))}

    def value(self, given: object, named: bool = False) -> int | float | None:
        """A class index or a number; None: no label of the task.

        Args:
            given: what the row holds.
            named: whether it is a class name for sure, and so never an index.
        """
        if not isinstance(given, str | int | float):
            return None
        if self._range is not None:
            return self._number(given)
        spellings = [str(given), str(given).lower()] if isinstance(given, bool) else [str(given)]  # JSON says true
        known = self._classes if named else self._indices | self._classes
        return next((known[name] for name in map(plain, spellings) if name in known), None)

    def fault(self) -> str:
        """What is wrong with a value that is no label."""
        if self._range is not None:
            return "is not a number from {:g} to {:g}".format(*self._range)
        return f"is unknown; the labels are {', '.join(self._classes)}"

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
