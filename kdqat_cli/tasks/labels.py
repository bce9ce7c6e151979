"""The label of a row: a class by its name or its index, or a number in a range.

A class name takes precedence. An index, from 0, is accepted only if no class name is a number: if the classes are 1 to
5, the label 0 is an error, not the class 1. Spaces around a name and its Unicode form (NFC or NFD, which depends on the
file system or the keyboard) are ignored; case is not.
"""

import unicodedata


def plain(name: str) -> str:
    """The form in which class names are compared: without spaces around it, in Unicode form NFC."""
    return unicodedata.normalize("NFC", name.strip())


class Labels:
    """The labels that a task's rows may have."""

    def __init__(self, classes: list[str] | None, limits: list[float] | None) -> None:
        """Takes the fields `labels` and `range` of a task; one of the two is None."""
        self._range = limits
        names = [plain(name) for name in classes or []]
        self._classes = {name: index for index, name in enumerate(names)}
        self._indices = {} if any(map(_is_number, names)) else {str(index): index for index in range(len(names))}

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
        spellings = [str(given), str(given).lower()] if isinstance(given, bool) else [str(given)]  # JSON says true
        known = self._classes if named else self._indices | self._classes
        return next((known[name] for name in map(plain, spellings) if name in known), None)

    def fault(self) -> str:
        """The end of the error sentence about a value that is not a label."""
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
