"""Measures how much the loss on labels depends on each weight of a model, to share learned points among weights."""

from itertools import islice

import torch
from torch import Tensor, nn

from kdqat_cli import group
from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.quantizers.parameters import quantized_weights
from kdqat_cli.quantizers.points import by_budget, by_gradient, scaled
from kdqat_cli.training.batches import SharedBatches

_BATCHES = 5  # as in the public code of Polino et al.


def mean_gradients(model: nn.Module, batches: SharedBatches) -> dict[str, Tensor]:
    """The mean gradient of each parameter over the first batches of a training, by name.

    The model is in eval mode during this, so that batch normalisation does not add these batches to its running means;
    in the public code it does.

    Args:
        model: not quantised; its gradients are cleared afterwards.
        batches: the batches of the training.
    """
    objective, training = OnLabels(), model.training
    device = next(model.parameters()).device
    model.eval()
    model.zero_grad()
    taken = list(islice(iter(batches.loader(0)), _BATCHES))
    for batch in taken:
        here = {name: values.to(device) for name, values in batch.items()}
        terms = objective.terms(model, here)
        torch.autograd.backward([term / (len(taken) * group.size()) for term in terms.values()])
    found = {name: group.add_up(p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.train(training)
    return found


def shared_points(model: nn.Module, gradients: dict[str, Tensor], rule: str, bits: int) -> dict[str, int]:
    """The number of points of each quantised weight, by a rule of quantizers/points.py.

    Args:
        model: quantised and not frozen.
        gradients: from `mean_gradients`, before the model was quantised.
        rule: `gradient` or `budget`.
        bits: number of bits per weight.
    """
    weights = quantized_weights(model)
    if rule == "gradient":
        return by_gradient(2**bits, {name: gradients[name].norm().item() for name in weights})
    norms = {}
    for name, weight in weights.items():
        _, ranges, _ = scaled(weight.weight.detach(), weight.grouping)
        norms[name] = (weight.grouping.split(gradients[name]) * ranges[:, None]).norm().item()
    return by_budget(bits, norms, {name: weight.weight.numel() for name, weight in weights.items()})
