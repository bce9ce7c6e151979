"""Explains why the loss, the gradient or a weight of a training is not finite.

At each step the training loop checks only the sum of loss and gradient norm. This costs no time, because the loop waits
for the norm anyway. The code here runs once, when that sum is not finite, before the weights are changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdqat_cli.networks.finite import is_finite, weight_at_fault

Terms = Mapping[str, Tensor]
"""The terms of a loss by name, with layer-wise terms per layer."""


def explain(models: Mapping[str, nn.Module], terms: Callable[[], Terms]) -> str:
    """The loss term that is not finite, and the first tensor that causes it, as a clause.

    Args:
        models: name in messages → model; the first is the trained model.
        terms: computes the loss of the failed batch again.
    """
    model = next(iter(models.values()))
    weight = weight_at_fault(models)
    with _watched_outputs(models) as outputs:
        found = terms()
    for name, value in found.items():
        if not is_finite(value):
            return f"the loss term {name} is not finite{_because(weight or next(iter(outputs), None))}"
    weights = dict(model.named_parameters())
    for name, value in found.items():
        gradients = torch.autograd.grad(value, list(weights.values()), retain_graph=True, allow_unused=True)
        # In backward order, because the gradient flows from the last layer to the first.
        for weight_name, gradient in reversed(list(zip(weights, gradients, strict=True))):
            if gradient is not None and not is_finite(gradient):
                return f"the gradient of the loss term {name} is not finite, first at the weight {weight_name}"
    return f"the loss or its gradient is not finite{_because(weight)}"


def _because(tensor: str | None) -> str:
    return f", first {tensor}" if tensor else ""


@contextmanager
def _watched_outputs(models: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Collects the modules with outputs that are not finite, in the order of computation: inner modules first."""
    found: list[str] = []

    def watch(described: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not is_finite(output):
                found.append(described)

        return hook

    handles = [
        module.register_forward_hook(watch(f"the output of the {called}'s {name}"))
        for called, model in models.items()
        for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
