"""Checks that the weights of networks are finite."""

from collections.abc import Mapping

from torch import Tensor, nn


def weight_at_fault(models: Mapping[str, nn.Module]) -> str | None:
    """A description of the first parameter that is NaN or infinite; None: all are finite.

    Args:
        models: name in messages → model.
    """
    for called, model in models.items():
        for name, parameter in model.named_parameters():
            if not is_finite(parameter):
                return f"the {called}'s weight {name}"
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    return bool(tensor.isfinite().all())
