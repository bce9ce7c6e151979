"""Dropout with a mask that is cheap on a CPU: a value is kept where 16 random bits are below a threshold.

    out = x / q where kept, else 0;  q = round((1 - p) · 2^16) / 2^16

torch draws one random number per value on a CPU, which takes a tenth of a training step. Here four values share one
draw of 64 bits. Other devices use torch's own dropout, which is one kernel there.

Guarantees
- Each value is dropped independently, with a probability within 2^-17 of p.
- The mean of out is exactly x.
- The same seed gives the same mask.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.autograd import Context
from kdqat_cli.native import fused
from kdqat_cli.quantizers.activations import masked

_STEPS = 2**16


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """Drops values (any shape) with probability `p` in training, and scales the others to keep the mean."""
    if training and 0 < p < 1 and values.device.type == "cpu":
        out: Tensor = _Dropout.apply(values, p)  # type: ignore[no-untyped-call]
        return out
    return F.dropout(values, p, training)


class FastDropout(nn.Dropout):
    """nn.Dropout that calls `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Values of any shape → the same shape."""
        return dropout(input, self.p, self.training)


def use_fast_dropout(model: nn.Module) -> None:
    """Makes each nn.Dropout of a model a `FastDropout`; the modules stay the same objects."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


class _DropoutContext(Context, Protocol):
    factor: float


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _DropoutContext, values: Tensor, p: float) -> Tensor:
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
    def backward(ctx: _DropoutContext, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,), (kept,) = grad_outputs, ctx.saved_tensors
        if fused.fuses(grad):
            return fused.keep(grad, kept, ctx.factor), None
        return masked(grad, kept).mul_(ctx.factor), None
