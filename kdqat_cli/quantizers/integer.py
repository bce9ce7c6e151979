"""A student's linear layer y = x̂·Ŵᵀ + b as a product of integers.

    x̂ = s·c, c of 8 bits;  Ŵ = α·q, q in {-1, 0, 1};  y = (s·α)·(c·qᵀ) + b

Guarantees
- The sums of c·qᵀ are exact. FP32 products of x̂ and Ŵ would round each sum and differ in the last bits.
- The gradient is straight-through: products with x̂ and Ŵ, and zero where a value reached its clamp. The products are
  in FP32, or in the type of torch's autocast.

The engine's kernels multiply the integers; without the native library torch does it, on a CPU with AVX-512. The c that
is kept for the gradient takes a quarter of the memory of x̂. Weights must be ternary: the kernels hold them in two bits,
and torch adds pairs of products in 16 bits on a processor without VNNI, which hold 2·255·1.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from kdqat_cli.autograd import Context
from kdqat_cli.native import fused
from kdqat_cli.quantizers.activations import Rounded, masked
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.product import product_type


def multiplies_integers(inputs: Tensor) -> bool:
    """Whether an integer product is faster: for FP32 on a CPU with a fast kernel. GPUs have a fast FP32 product."""
    here = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    return here and (fused.multiplies(inputs) or torch.backends.cpu.get_cpu_capability() == "AVX512")


def integer_linear(
    inputs: Tensor,
    rounded: Rounded,
    weight: Tensor,
    codes: Codes,
    clip: float | None,
    bias: Tensor | None,
) -> Tensor:
    """(..., I) → (..., O).

    Args:
        inputs: (..., I), receives the gradient.
        rounded: c and s of `inputs`.
        weight: (O, I), the latent weight, receives the gradient.
        codes: q and α of `weight`, with one scale per matrix.
        clip: where |weight| ≥ clip, its gradient is zero.
        bias: (O,).
    """
    apply: Callable[..., Tensor] = _IntegerLinear.apply
    return apply(inputs, weight, bias, rounded, codes, clip)


class _LinearContext(Context, Protocol):
    clip: float | None
    shape: torch.Size
    kind: torch.dtype


class _IntegerLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _LinearContext,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rounded: Rounded,
        codes: Codes,
        clip: float | None,
    ) -> Tensor:
        values, scale = rounded.values.flatten(0, -2), rounded.scale.flatten(0, -2)
        signs, alpha = codes.levels, codes.scales
        reaches = False
        if clip is not None and ctx.needs_input_grad[1]:
            reaches = bool((weight.amax() >= clip) | (weight.amin() <= -clip))
        ctx.save_for_backward(values, scale, rounded.inside, signs, alpha, weight if reaches else None)
        ctx.clip, ctx.shape, ctx.kind = clip, inputs.shape, product_type(inputs)
        if fused.multiplies(inputs):
            out = fused.product(values, scale, signs, float(alpha), bias)
        else:
            out = torch._int_mm(values, signs.t()).to(inputs.dtype)
            out = out.mul_(scale * alpha) if bias is None else torch.addcmul(bias, out, scale * alpha, out=out)
        return out.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: _LinearContext, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        values, scale, inside, signs, alpha, clamped = ctx.saved_tensors
        whole = grad_outputs[0].flatten(0, -2)
        grad = whole.to(ctx.kind)
        to_inputs = torch.mm(grad, signs.to(ctx.kind).mul_(alpha)).to(whole.dtype).view(ctx.shape)
        if inside is not None:
            to_inputs = masked(to_inputs, inside)
        to_weight = torch.mm(grad.t(), values.to(ctx.kind).mul_(scale)).to(whole.dtype)
        if clamped is not None and ctx.clip is not None:
            to_weight = masked(to_weight, clamped.abs() < ctx.clip)
        return to_inputs, to_weight, whole.sum(0) if ctx.needs_input_grad[2] else None, None, None, None
