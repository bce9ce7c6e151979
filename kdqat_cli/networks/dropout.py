"""Dropout whose mask is cheap on a CPU: a value is kept where 16 random bits lie below a threshold.

    out = x / q where kept, else 0;  q = round((1 - p) · 2^16) / 2^16

torch draws a number for each value there, which takes a tenth of a training step; four thresholds share one draw of
64 bits here. Guarantees: each value is dropped independently, with a probability within 2^-17 of p; out has the mean
x exactly; one seed gives one mask. On other devices, where torch's own is one kernel, this is torch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.native import fused
from kdqat_cli.quantizers.activations import masked

_STEPS = 2**16


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """Drops values (any shape) with probability `p` in training, and scales the rest to the same mean."""
    if training and 0 < p < 1 and values.device.type == "cpu":
        out: Tensor = _Dropout.apply(values, p)  # type: ignore[no-untyped-call]
        return out
    return F.dropout(values, p, training)


class FastDropout(nn.Dropout):
    """nn.Dropout through `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return dropout(input, self.p, self.training)


def use_fast_dropout(model: nn.Module) -> None:
    """Makes each nn.Dropout of a model a `FastDropout`; the modules stay the same objects."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:
        keep = round((1 - p) * _STEPS)
        draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: values.numel()].view(values.shape)
        threshold, ctx.factor = keep - _STEPS // 2, _STEPS / keep
        if fused.fuses(values):
            out, kept = fused.drop(values, bits, threshold, ctx.factor)
        else:
            kept = bits < threshold
            out = masked(values, kept).mul_(ctx.factor)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,), (kept,) = grad_outputs, ctx.saved_tensors
        if fused.fuses(grad):
            return fused.keep(grad, kept, ctx.factor), None
        return masked(grad, kept).mul_(ctx.factor), None
