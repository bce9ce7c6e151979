"""Where a training went wrong whose loss, gradient or weights are not finite.

The training loop only looks at one number a step, the sum of loss and gradient norm, which costs it nothing: it waits
for that number anyway. What follows here happens once, when the number is not finite, before the weights are changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdqat_cli.networks.finite import is_finite, weight_at_fault

Terms = Mapping[str, Tensor]
"""The summands of a loss by name, those of single layers apart."""


def explain(models: Mapping[str, nn.Module], terms: Callable[[], Terms]) -> str:
    """Which loss term is not finite, and because of which tensor; as a clause.

    Args:
        models: by what they are called; the first is the one that is trained.
        terms: computes the loss of the failed batch once more.
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
        # Backwards, as the gradient flows: the last layer that has it is where it begins.
        for weight_name, gradient in reversed(list(zip(weights, gradients, strict=True))):
            if gradient is not None and not is_finite(gradient):
                return f"the gradient of the loss term {name} is not finite, first at the weight {weight_name}"
    return f"the loss or its gradient is not finite{_because(weight)}"


def _because(tensor: str | None) -> str:
    return f", first {tensor}" if tensor else ""


@contextmanager
def _watched_outputs(models: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Collects the modules whose outputs are not finite, in the order in which they end: the innermost first."""
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
