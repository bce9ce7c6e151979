"""A cache that holds the last result of a function of a tensor."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Remembered(Generic[T]):
    """Computes a function of a tensor again only if the tensor is another one or has changed.

    The version of a tensor shows a change. Do not use it for weights in training: torch's fused optimisers change a
    tensor without changing its version.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._last: tuple[weakref.ref[Tensor], int, T] | None = None

    def __call__(self, function: Callable[[Tensor], T], values: Tensor) -> T:
        """`function(values)`."""
        if values.is_inference():  # such a tensor has no version
            return function(values)
        last = self._last  # read once: other threads may use the same model
        if last is None or last[0]() is not values or last[1] != values._version:
            self._last = last = weakref.ref(values), values._version, function(values)
        return last[2]

    def forget(self) -> None:
        """Empties the cache."""
        self._last = None

    def __reduce__(self) -> tuple[type["Remembered[T]"], tuple[()]]:
        """Copies start empty: a reference to a tensor cannot be pickled."""
        return type(self), ()
