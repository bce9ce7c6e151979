"""Training steps that the native library computes in one pass over memory; torch needs several.

The caller of each function also has the formula in torch, for GPUs, for float64, and for installations without the
library. `fuses` says whether the library can compute a step: FP32 on a CPU. KDQAT_KERNEL chooses the kernel; `torch`
switches the library off.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from kdqat_cli.native import MOST_THREADS
from kdqat_cli.native.library import PORTABLE, TORCH, call, kernel_here, library


def fuses(*tensors: Tensor) -> bool:
    """Whether the library can compute with these tensors."""
    plain = all(tensor.dtype == torch.float32 and tensor.is_cpu for tensor in tensors)
    return plain and _kernel() != TORCH and library() is not None


def multiplies(*tensors: Tensor) -> bool:
    """Whether the library multiplies ternary weights faster than torch multiplies FP32: not with portable code."""
    return fuses(*tensors) and _kernel() != PORTABLE


def rounded(
    values: Tensor, clip: float | None, shared: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """8-bit codes of activations; quantizers/activations.py has the formula.

    Args:
        values: (..., D).
        clip: values are clamped to ±clip first; None: no clamp.
        shared: one scale for all values instead of one per vector.
        into: (..., D), contiguous, receives the products of codes and scales; None: they are not computed.

    Returns:
        The codes (..., D), int8; the scales (..., 1) or (1, ..., 1); where |x| < clip (None: everywhere).
    """
    if values.stride(-1) != 1 or values.dim() > 4:
        values = values.contiguous()
    shape, width = values.shape, values.size(-1)
    lying = values.flatten(0, -2) if values.dim() > 4 else values
    *outer, _ = lying.shape
    codes = torch.empty(shape, dtype=torch.int8)
    inside = torch.empty(shape, dtype=torch.bool) if clip is not None else None
    scales = torch.empty([1] * len(shape) if shared else [*shape[:-1], 1])
    reached = ctypes.c_int32()
    filled = [1] * (3 - len(outer))
    sizes, strides = (ctypes.c_int64 * 3)(*filled, *outer), (ctypes.c_int64 * 3)(*filled, *lying.stride()[:-1])
    results = [_at(tensor) for tensor in (codes, into, inside, scales)]
    limit = float("inf") if clip is None else clip
    _call("kdqat_round", _at(lying), sizes, strides, width, limit, shared, *results, ctypes.byref(reached))
    return codes, scales, inside if reached.value else None


def product(codes: Tensor, scales: Tensor, signs: Tensor, alpha: float, bias: Tensor | None = None) -> Tensor:
    """A linear layer: (c·qᵀ)·(s·α) + b. The sums of c·qᵀ are exact; the product and the sum with b are rounded once.

    Args:
        codes: c, (N, I), int8.
        scales: s, (N, 1), or (1, 1) for all rows.
        signs: q, (O, I), int8, of -1, 0 and 1.
        alpha: α.
        bias: b, (O,); None: nothing is added.

    Returns:
        (N, O).
    """
    (rows, inputs), outputs = codes.shape, signs.size(0)
    codes, signs, scales = codes.contiguous(), signs.contiguous(), scales.expand(rows, 1).contiguous()
    bias, out = None if bias is None else bias.contiguous(), torch.empty(rows, outputs)
    results = (_at(bias), _at(out))
    _call("kdqat_product", _at(codes), _at(scales), rows, inputs, _at(signs), outputs, alpha, *results)
    return out


def divergence(
    student: Tensor, teacher: Tensor, mask: Tensor, weight: Tensor, temperature: float, floor: float | None = None
) -> tuple[float, Tensor]:
    """Σ weight · KL(p_teacher ‖ p_student) over queries, with p = softmax(score / temperature) over the real keys.

    Args:
        student: scores (B, H, L, L).
        teacher: scores (B, H, L, L).
        mask: (B, L), true at real tokens.
        weight: (B, L), one weight per query; 0 leaves a query out.
        temperature: divides the scores of both.
        floor: smaller probabilities are raised to it, and then have no gradient; None: no floor.

    Returns:
        The sum, and its gradient with respect to `student`.
    """
    student, teacher, weight = student.contiguous(), teacher.contiguous(), weight.contiguous()
    real = mask.bool().contiguous()
    batch, heads, length, _ = student.shape
    slope, total = torch.empty_like(student), ctypes.c_double()
    tensors = [_at(tensor) for tensor in (student, teacher, real, weight)]
    sizes = (batch, heads, length)
    _call("kdqat_divergence", *tensors, *sizes, temperature, floor or 0.0, _at(slope), ctypes.byref(total))
    return total.value, slope


def levels(
    values: Tensor, size: int, most: int, constant: float, seed: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Levels of uniform weights; quantizers/uniform.py has the formula.

    Args:
        values: of any shape, not empty.
        size: number of consecutive values of a group; the last group may be shorter.
        most: the largest level, below 256.
        constant: a group with a smaller range is constant, and its levels are 0.
        seed: rounding is stochastic, and the draw of a value depends on the seed, below 2^64, and on the place of the
            value; None: to the nearest level.

    Returns:
        The levels in the shape of `values`, uint8; the scales and the offsets (groups,).
    """
    values = values.contiguous()
    out = torch.empty(values.shape, dtype=torch.uint8)
    scales, offsets = (torch.empty(-(-values.numel() // size)) for _ in range(2))
    results = [_at(tensor) for tensor in (out, scales, offsets)]
    key = None if seed is None else ctypes.byref(ctypes.c_uint64(seed))
    _call("kdqat_levels", _at(values), values.numel(), size, most, constant, key, *results)
    return out, scales, offsets


def range_gradient(grad: Tensor, latent: Tensor, value: Tensor, size: int, constant: float) -> Tensor:
    """∂L/∂w if the range of a group depends on its extremes; quantizers/uniform.py has the formula.

    Args:
        grad: ∂L/∂ŵ, in the shape of the weight.
        latent: w, not empty.
        value: ŵ.
        size: number of consecutive values of a group; the last group may be shorter.
        constant: a group with a smaller range is constant, and its gradient is `grad`.

    Returns:
        ∂L/∂w, in the shape of the weight.
    """
    grad, latent, value = grad.contiguous(), latent.contiguous(), value.contiguous()
    out = torch.empty(grad.shape)
    tensors = [_at(tensor) for tensor in (grad, latent, value)]
    _call("kdqat_range_gradient", *tensors, latent.numel(), size, constant, _at(out))
    return out


def values(levels: Tensor, size: int, scales: Tensor, offsets: Tensor | None) -> Tensor:
    """ŵ = scale · level + offset in groups of `size` consecutive levels; the product and the sum are each rounded.

    Args:
        levels: int8 or uint8, of any shape.
        size: number of levels of a group; the last group may be shorter.
        scales: (groups,).
        offsets: (groups,); None: nothing is added.

    Returns:
        ŵ in the shape of the levels.
    """
    levels, scales = levels.contiguous(), scales.contiguous()
    offsets = None if offsets is None else offsets.contiguous()
    out, negative = torch.empty(levels.shape), levels.dtype == torch.int8
    _call("kdqat_values", _at(levels), negative, levels.numel(), size, _at(scales), _at(offsets), _at(out))
    return out


def drop(values: Tensor, bits: Tensor, threshold: int, factor: float) -> tuple[Tensor, Tensor]:
    """Dropout: values · factor where bits (int16) < threshold, else 0; and the mask of the kept values."""
    values = values.contiguous()
    out, kept = torch.empty_like(values), torch.empty(values.shape, dtype=torch.bool)
    _call("kdqat_drop", _at(values), _at(bits), values.numel(), threshold, factor, _at(out), _at(kept))
    return out, kept


def keep(values: Tensor, kept: Tensor, factor: float) -> Tensor:
    """Dropout with a mask that was drawn before: values · factor where kept, else 0."""
    values = values.contiguous()
    out = torch.empty_like(values)
    _call("kdqat_keep", _at(values), _at(kept), values.numel(), factor, _at(out))
    return out


@cache
def _kernel() -> str:
    return kernel_here()  # cached, because a training step asks hundreds of times


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(name: str, *arguments: object) -> None:
    call(name, _kernel().encode(), min(torch.get_num_threads(), MOST_THREADS), *arguments)
