"""The optimisers that a recipe may name.

adamw       AdamW (Loshchilov & Hutter, 2019), with bias correction, ε 1e-8; the norm of the whole gradient is clipped
bert-adam   BERT's Adam (Devlin et al., 2019), as in the public code of Kim et al.
sgd         gradient descent with Nesterov momentum 0.9, as Polino et al. use for images
plain-sgd   gradient descent without momentum, as they use for translation
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT
from transformers.trainer_pt_utils import get_parameter_names

from kdqat_cli.config import Training

_MOMENTUM = 0.9
_UNBIASED = 1e7  # steps
_NOT_DECAYED = ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # as in transformers


class BertAdam(Optimizer):
    """Adam without bias correction, with decoupled weight decay; the gradient of each parameter is clipped separately.

    g ← g · min(1, clip / ‖g‖),  m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²
    w ← w - lr · (m / (√v + ε) + decay · w)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        gradient_clip: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        """Sets the defaults of all parameter groups."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(params, defaults | {"gradient_clip": gradient_clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        # 1e-6, as in torch's own clipping, avoids a division by a gradient of zero.
        shrink = (group["gradient_clip"] / (norms + 1e-6)).clamp(max=1.0)
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            list(torch._foreach_mul(gradients, list(shrink.unbind()))),
            [self.state[weight]["m"] for weight in weights],
            [self.state[weight]["v"] for weight in weights],
            [],
            # With this many steps, the bias corrections 1 - β^steps are exactly 1.
            [torch.full((), _UNBIASED, device=weight.device) for weight in weights],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def optimizer_of(model: nn.Module, settings: Training) -> Optimizer:
    """The optimiser that the settings name; biases and normalisation get no weight decay."""
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NOT_DECAYED))
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name in decayed].append(parameter)
    groups = [
        {"params": parts[True], "weight_decay": settings.weight_decay},
        {"params": parts[False], "weight_decay": 0.0},
    ]
    if settings.optimizer == "bert-adam":
        return BertAdam(groups, settings.learning_rate, settings.gradient_clip)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, momentum=_MOMENTUM, nesterov=True)
    if settings.optimizer == "plain-sgd":
        return SGD(groups, settings.learning_rate)
    return AdamW(groups, settings.learning_rate, fused=True)
