"""Steps of a training that the native library does in one pass over memory, where torch takes several.

Each function here has its formula in torch where it is called, which serves on a GPU, in float64, and where the library
was not built. `fuses` tells whether the library serves instead: for FP32 on a CPU. KDQAT_KERNEL chooses its kernel, and
`torch` means none.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from kdqat_cli.native import MOST_THREADS
from kdqat_cli.native.library import TORCH, call, kernel_here, library


def fuses(*tensors: Tensor) -> bool:
    """Whether the library serves tensors like these."""
    plain = all(tensor.dtype == torch.float32 and tensor.is_cpu for tensor in tensors)
    return plain and _kernel() != TORCH and library() is not None


def rounded(
    values: Tensor, clip: float | None, shared: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """8-bit codes of activations; see activations.py for the formula.

    Args:
        values: (..., D).
        clip: values are clamped to ±clip first; None: no clamp.
        shared: one scale for all, instead of one a vector.
        into: (..., D), contiguous, receives the products of codes and scales; None: they are not wanted.

    Returns:
        codes (..., D), int8; scales (..., 1), or (1, ..., 1); where |x| < clip, None meaning everywhere.
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


def divergence(
    student: Tensor, teacher: Tensor, mask: Tensor, weight: Tensor, temperature: float, floor: float | None = None
) -> tuple[float, Tensor]:
    """Σ weight · KL(p_teacher ‖ p_student) over queries, p = softmax(score / temperature) over the real keys.

    Args:
        student: scores (B, H, L, L).
        teacher: scores (B, H, L, L).
        mask: (B, L), true at real tokens.
        weight: (B, L), of each query; 0 leaves it out.
        temperature: of both.
        floor: probabilities below it count as it, with no gradient; None: none do.

    Returns:
        The sum, and its gradient in `student`.
    """
    student, teacher, weight = student.contiguous(), teacher.contiguous(), weight.contiguous()
    real = mask.bool().contiguous()
    batch, heads, length, _ = student.shape
    slope, total = torch.empty_like(student), ctypes.c_double()
    tensors = [_at(tensor) for tensor in (student, teacher, real, weight)]
    sizes = (batch, heads, length)
    _call("kdqat_divergence", *tensors, *sizes, temperature, floor or 0.0, _at(slope), ctypes.byref(total))
    return total.value, slope


def levels(values: Tensor, size: int, most: int, constant: float) -> tuple[Tensor, Tensor, Tensor]:
    """Levels of uniform weights; see quantizers/uniform.py for the formula.

    Args:
        values: of any shape, not empty.
        size: consecutive values of a group, of which the last may be shorter.
        most: the largest level, below 256.
        constant: range of a group below which its levels are 0.

    Returns:
        levels of the shape of `values`, uint8; scales and offsets (groups,).
    """
    values = values.contiguous()
    out = torch.empty(values.shape, dtype=torch.uint8)
    scales, offsets = (torch.empty(-(-values.numel() // size)) for _ in range(2))
    results = [_at(tensor) for tensor in (out, scales, offsets)]
    _call("kdqat_levels", _at(values), values.numel(), size, most, constant, *results)
    return out, scales, offsets


def values(levels: Tensor, size: int, scales: Tensor, offsets: Tensor | None) -> Tensor:
    """ŵ = scale · level + offset of groups of `size` consecutive levels, product and sum rounded.

    Args:
        levels: int8 or uint8, of any shape.
        size: levels of a group, of which the last may be shorter.
        scales: (groups,).
        offsets: (groups,); None: nothing is added.

    Returns:
        Of the shape of the levels.
    """
    levels, scales = levels.contiguous(), scales.contiguous()
    offsets = None if offsets is None else offsets.contiguous()
    out, negative = torch.empty(levels.shape), levels.dtype == torch.int8
    _call("kdqat_values", _at(levels), negative, levels.numel(), size, _at(scales), _at(offsets), _at(out))
    return out


def drop(values: Tensor, bits: Tensor, threshold: int, factor: float) -> tuple[Tensor, Tensor]:
    """Dropout: values · factor where bits (int16) < threshold, else 0; and where that is."""
    values = values.contiguous()
    out, kept = torch.empty_like(values), torch.empty(values.shape, dtype=torch.bool)
    _call("kdqat_drop", _at(values), _at(bits), values.numel(), threshold, factor, _at(out), _at(kept))
    return out, kept


def keep(values: Tensor, kept: Tensor, factor: float) -> Tensor:
    """Dropout of what was drawn before: values · factor where kept, else 0."""
    values = values.contiguous()
    out = torch.empty_like(values)
    _call("kdqat_keep", _at(values), _at(kept), values.numel(), factor, _at(out))
    return out


@cache
def _kernel() -> str:
    return kernel_here()  # once: a training step asks hundreds of times


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(name: str, *arguments: object) -> None:
    call(name, _kernel().encode(), min(torch.get_num_threads(), MOST_THREADS), *arguments)
