"""The optimisers that a recipe may name.

adamw       AdamW (Loshchilov & Hutter, 2019), bias-corrected, ε 1e-8; the whole gradient's norm is clipped
bert-adam   BERT's Adam (Devlin et al., 2019), as the public code of Kim et al. has it
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from kdqat_cli.config import Training


class BertAdam(Optimizer):
    """Adam without bias correction, with decoupled weight decay, each parameter's gradient clipped by itself.

    g ← g · min(1, clip / ‖g‖),  m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²
    w ← w - lr · (m / (√v + ε) + decay · w)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        gradient_clip: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        """Sets what every parameter group has unless it says otherwise."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(params, defaults | {"gradient_clip": gradient_clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            # On a CPU one by one, so that a weight and its moments stay in cache; on a GPU all in a few kernels.
            for part in [[weight] for weight in weights if weight.is_cpu] + [[w for w in weights if not w.is_cpu]]:
                if part:
                    self._step(part, group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        first = [self.state[weight]["m"] for weight in weights]
        second = [self.state[weight]["v"] for weight in weights]
        beta1, beta2 = group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        # 1e-6, as torch's own clipping has it: no division by a gradient of zero.
        shrink = (group["gradient_clip"] / (norms + 1e-6)).clamp(max=1.0)
        gradients = list(torch._foreach_mul(gradients, list(shrink.unbind())))
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(weights, first, root, value=-group["lr"])


def optimizer_of(settings: Training) -> tuple[type[Optimizer], dict[str, Any]]:
    """Class and arguments of the optimiser that the settings name, without parameters."""
    rate = {"lr": settings.learning_rate}
    if settings.optimizer == "bert-adam":
        return BertAdam, rate | {"gradient_clip": settings.gradient_clip}
    return AdamW, rate | {"fused": True}
