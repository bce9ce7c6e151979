"""The type of the context of a `torch.autograd.Function`, which torch itself does not declare."""

from typing import Any, Protocol

from torch import Tensor


class Context(Protocol):
    """What `forward` and `backward` get from torch. A function that keeps more than tensors adds it in a subclass.

    Attributes:
        needs_input_grad: for each argument of `forward`, whether it needs a gradient.
        saved_tensors: what `save_for_backward` received, None included.
    """

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Any, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for `backward`."""
