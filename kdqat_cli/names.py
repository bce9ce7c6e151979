"""Names that options and settings take: kdqat's own, and those that plugins add. Nothing heavy is imported here."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticCustomError


class Names:
    """The names of one kind of thing, in the order in which they are listed."""

    def __init__(self, *names: str) -> None:
        """Starts with kdqat's own."""
        self._names = list(names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Adds a name.

        Raises:
            ValueError: it is taken.
        """
        if name in self._names:
            raise ValueError(f"the name {name!r} is taken")
        self._names.append(name)

    def checked(self, value: Any) -> str:
        """The value, if it is one of the names; for pydantic."""
        if not isinstance(value, str) or value not in self._names:
            raise PydanticCustomError("name", "Input should be {names}", {"names": self.listed()})
        return value

    def listed(self) -> str:
        """All names, for a sentence."""
        *others, last = map(repr, self._names)
        return f"{', '.join(others)} or {last}"

    def metavar(self) -> str:
        """All names, for the help of an option."""
        return f"[{'|'.join(self._names)}]"


LOSSES = Names("score", "map", "output", "mha", "map+output")
"""Values of `--loss`; distillation/losses.py says what each is."""
FORMATS = Names("packed", "dense", "hf", "hf-compressed", "onnx", "onnx-plain", "gguf", "gguf-tq1")
"""Values of `--format`; `packed` is kdqat's own, exporters/catalogue.py says what the others are."""
