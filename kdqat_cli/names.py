"""Names that options and settings take: kdqat's names and those of plugins. Imports nothing heavy."""

from collections.abc import Callable, Collection
from typing import TypeVar, cast

from pydantic_core import PydanticCustomError

T = TypeVar("T")


class Names(dict[str, T]):
    """The names of one kind of thing in the order of their listing, each with a value (perhaps None)."""

    def add(self, name: str, value: T | None = None) -> None:
        """Adds a name; the value is None if the name needs none.

        Raises:
            ValueError: the name is taken.
        """
        if name in self:
            raise ValueError(f"the name {name!r} is taken")
        self[name] = cast(T, value)

    def checked(self, value: object) -> str:
        """The value if it is one of the names, for pydantic."""
        if not isinstance(value, str) or value not in self:
            raise PydanticCustomError("name", "Input should be {names}", {"names": self.listed()})
        return value

    def listed(self) -> str:
        """All names, for a sentence."""
        *others, last = map(repr, self)
        return f"{', '.join(others)} or {last}"

    def metavar(self) -> str:
        """All names, for the help of an option."""
        return f"<{'|'.join(self)}>"


LOSSES: Names[None] = Names(dict.fromkeys(["score", "map", "output", "mha", "map+output", "logits"]))
"""Values of `--loss`; distillation/losses.py explains them."""
FORMATS: Names[None] = Names(
    dict.fromkeys(["packed", "dense", "hf", "hf-compressed", "onnx", "onnx-plain", "gguf", "gguf-tq1"])
)
"""Values of `--format`; `packed` is kdqat's own format, exporters/catalogue.py explains the others."""
_OF_LAYERS = [
    "cover-length",
    "ranking-loss",
    "ranking-ratio",
    "map-divergence",
    "dynamic-range",
    "attention-distance",
    "hidden-error",
]
_OF_MODELS = ["hidden-error", "weights", "agreement", "disagreement", "calibration", "hessian", "diagnosis"]
MEASURES: Names[None] = Names(dict.fromkeys([*_OF_LAYERS, *_OF_MODELS]))
"""Values of `--measure`; analysis/catalogue.py explains them."""
LEVELS: Names[Callable[[int], Collection[int]]] = Names(
    {
        "fp32": lambda _: (),
        "ternary": lambda _: range(-1, 2),
        "int4": lambda _: range(-7, 8),
        "int8": lambda _: range(-127, 128),
        "uniform": lambda bits: range(2**bits),
        "points": lambda _: range(256),
    }
)
"""Values of `--weights` → a function of `--bits` that gives the levels; quantizers/weights.py has the quantisers."""
