"""The product x̂·ŷ of two quantised activations, which keeps their 8-bit integers for the gradient.

The gradient is straight-through: products with x̂ and ŷ, and zero where a value reached its clamp. Under torch's
autocast the products of both passes are computed in its type; inputs and outputs keep their own type.
"""

from typing import Protocol

import torch
from torch import Tensor

from kdqat_cli.autograd import Context
from kdqat_cli.quantizers.activations import ActivationQuantizer, masked


def quantized_product(left: Tensor, right: Tensor, quantizer: ActivationQuantizer, transposed: bool = False) -> Tensor:
    """The batched matrix product of two quantised tensors.

    Args:
        left: (..., M, K).
        right: (..., K, N), or (..., N, K) if transposed; quantised along its last dimension before it is transposed.
        quantizer: quantises both, to at most 8 bits.
        transposed: whether to transpose `right`.

    Returns:
        (..., M, N).
    """
    out: Tensor = _Product.apply(left, right, quantizer, transposed)  # type: ignore[no-untyped-call]
    return out


def product_type(values: Tensor) -> torch.dtype:
    """The type of matrix products of these values: the type of autocast if it is on, else their own type."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype


class _ProductContext(Context, Protocol):
    transposed: bool
    kind: torch.dtype


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _ProductContext, left: Tensor, right: Tensor, quantizer: ActivationQuantizer, transposed: bool
    ) -> Tensor:
        ctx.transposed = transposed
        sides, kept = [], []
        for values in (left, right):
            rounded, value = quantizer.quantized(values)
            if any(ctx.needs_input_grad):
                kept += [rounded.values, rounded.scale, rounded.inside]
            sides.append(value)
        ctx.save_for_backward(*kept)
        ctx.kind = product_type(left)
        left, right = (side.to(ctx.kind) for side in sides)
        return torch.matmul(left, right.mT if transposed else right).to(sides[0].dtype)

    @staticmethod
    def backward(ctx: _ProductContext, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        kind = grad_outputs[0].dtype
        grad = grad_outputs[0].to(ctx.kind)
        integers, scale, inside, other_integers, other_scale, other_inside = ctx.saved_tensors
        right = other_integers.to(ctx.kind).mul_(other_scale)
        to_left = torch.matmul(grad, right if ctx.transposed else right.mT).to(kind)
        del right
        left = integers.to(ctx.kind).mul_(scale)
        to_right = (torch.matmul(grad.mT, left) if ctx.transposed else torch.matmul(left.mT, grad)).to(kind)
        if inside is not None:
            to_left = masked(to_left, inside)
        if other_inside is not None:
            to_right = masked(to_right, other_inside)
        return to_left, to_right, None, None
