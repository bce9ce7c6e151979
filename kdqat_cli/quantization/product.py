"""x̂·ŷ of two quantised activations, keeping for the gradient their 8-bit codes instead of their values.

The gradient is the straight-through one: products with x̂ and ŷ, zero where a value reached its clamp.
"""

from typing import Any

import torch
from torch import Tensor

from kdqat_cli.quantization.activations import ActivationQuantizer, masked


def quantized_product(left: Tensor, right: Tensor, quantizer: ActivationQuantizer, transposed: bool = False) -> Tensor:
    """The batched matrix product of two quantised tensors.

    Args:
        left: (..., M, K).
        right: (..., K, N), or transposed (..., N, K); quantised along its last dimension as given.
        quantizer: of both, of at most 8 bits.
        transposed: whether `right` is to be transposed.

    Returns:
        (..., M, N).
    """
    out: Tensor = _Product.apply(left, right, quantizer, transposed)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, quantizer: ActivationQuantizer, transposed: bool) -> Tensor:
        ctx.transposed = transposed
        sides, kept = [], []
        for values in (left, right):
            codes, value = quantizer.quantized(values)
            if any(ctx.needs_input_grad):
                kept += [codes.values, codes.scale, codes.inside]
            sides.append(value)
        ctx.save_for_backward(*kept)
        return torch.matmul(sides[0], sides[1].mT if transposed else sides[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        codes, scale, inside, other_codes, other_scale, other_inside = ctx.saved_tensors
        right = other_codes.to(grad.dtype).mul_(other_scale)
        to_left = torch.matmul(grad, right if ctx.transposed else right.mT)
        del right
        left = codes.to(grad.dtype).mul_(scale)
        to_right = torch.matmul(grad.mT, left) if ctx.transposed else torch.matmul(left.mT, grad)
        if inside is not None:
            to_left = masked(to_left, inside)
        if other_inside is not None:
            to_right = masked(to_right, other_inside)
        return to_left, to_right, None, None
