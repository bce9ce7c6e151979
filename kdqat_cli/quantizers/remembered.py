"""The last result of a function of a tensor, for those who ask again."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Remembered(Generic[T]):
    """Computes a function of a tensor once, until another tensor or a changed one comes.

    The tensor's version tells of a change; torch's fused optimisers leave it as it is: not for weights in training.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self._last: tuple[weakref.ref[Tensor], int, T] | None = None

    def __call__(self, function: Callable[[Tensor], T], values: Tensor) -> T:
        """`function(values)`."""
        if values.is_inference():  # has no version
            return function(values)
        last = self._last  # read once: other threads may use the same model
        if last is None or last[0]() is not values or last[1] != values._version:
            self._last = last = weakref.ref(values), values._version, function(values)
        return last[2]

    def forget(self) -> None:
        """Back to nothing."""
        self._last = None

    def __reduce__(self) -> tuple[type["Remembered[T]"], tuple[()]]:
        """Copies start empty: a reference to a tensor cannot be pickled."""
        return type(self), ()
