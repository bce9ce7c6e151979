"""Triton kernels for the two steps of a packed linear: rounding activations, and their product with 2-bit codes.

Guarantees
- The integers and the scales of activations are bit for bit those of the engine on a CPU, because both use IEEE
  division. (On a GPU, torch divides by a constant through its reciprocal, so the last bit of a scale may differ.)
- The sums are exact; only the last step, y = (s·α)·sum + b, rounds.

A byte of the packed weight (layers.py) holds the codes of four columns, each a quarter of the width apart. So a tile of
bytes belongs to four tiles of activations, and no code has to move. The weight is the left factor, yᵀ = Ŵ·x̂ᵀ, because
tensor cores can read the left factor from registers, where the codes are expanded.

Without a GPU, TRITON_INTERPRET=1 runs the same kernels on a CPU; only `_expand` has another form there.
"""

import os
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdqat_cli.quantizers.activations import ActivationQuantizer, Rounded


class Tile(NamedTuple):
    """The rows and outputs that one program of the product computes, and its number of warps."""

    rows: int
    outputs: int
    warps: int


# The largest first. The first tile that keeps every multiprocessor busy is used.
TILES = (Tile(128, 128, 8), Tile(64, 64, 4), Tile(32, 64, 4), Tile(16, 32, 4))
FEW_ROWS = 4
"""Up to this number of rows, each row is multiplied separately in plain integer arithmetic: tensor cores would idle."""

_FEW_OUTPUTS = 4
_DEPTHS = (128, 64, 32)  # bytes of a row in one step
_LARGEST_STEP = 8192  # bytes of all rows in one step: three stages fit the shared memory of small Ampere GPUs
_ROUNDED = 2048  # activations that one program rounds, at least one row

# Four bytes at a time: each is at least 0x80 when 1 is subtracted, so that none borrows from its neighbour.
_FOUR_BYTES = tl.constexpr(
    "\n".join(
        f"shr.b32 ${part}, $4, {2 * part};"
        f"and.b32 ${part}, ${part}, 0x03030303;"
        f"or.b32 ${part}, ${part}, 0x80808080;"
        f"sub.u32 ${part}, ${part}, 0x01010101;"
        f"xor.b32 ${part}, ${part}, 0x80808080;"
        for part in range(4)
    )
)


@triton.jit
def _expand(packed, PTX: tl.constexpr):
    if PTX:  # the other form compiles to three times as many instructions
        return tl.inline_asm_elementwise(
            _FOUR_BYTES, "=&r,=&r,=&r,=&r,r", [packed], (tl.int8, tl.int8, tl.int8, tl.int8), is_pure=True, pack=4
        )
    return (packed & 3) - 1, ((packed >> 2) & 3) - 1, ((packed >> 4) & 3) - 1, ((packed >> 6) & 3) - 1


@triton.jit(do_not_specialize=["rows"])  # compiled once for all numbers of rows
def _tile_kernel(
    codes,
    scales,
    weight,
    alpha,
    bias,
    out,
    rows,
    outputs,
    columns,
    quarter,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BYTES: tl.constexpr,
    EVEN: tl.constexpr,
    BIAS: tl.constexpr,
    PTX: tl.constexpr,
):
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    m = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BYTES)
    # After the last row or output, a tile continues with the first; those results are not stored.
    left = weight + (n % outputs)[:, None] * quarter + k[None, :]
    right = codes + (m % rows)[None, :] * columns + k[:, None]
    sums = tl.zeros((OUTPUTS, ROWS), tl.int32)
    for start in range(0, quarter, BYTES):
        parts = _expand(tl.load(left + start), PTX)
        for part in tl.static_range(4):
            first = start + part * quarter
            x = tl.load(right + first) if EVEN else tl.load(right + first, mask=(k + first < columns)[:, None], other=0)
            sums = tl.dot(parts[part], x, sums, out_dtype=tl.int32)
    y = sums.to(tl.float32) * (tl.load(scales + m, mask=m < rows, other=0.0) * alpha)[None, :]
    if BIAS:
        y += tl.load(bias + n, mask=n < outputs, other=0.0)[:, None]
    tl.store(out + m[None, :] * outputs + n[:, None], y, mask=(m < rows)[None, :] & (n < outputs)[:, None])


@triton.jit
def _few_kernel(
    codes,
    scales,
    weight,
    alpha,
    bias,
    out,
    outputs,
    columns,
    quarter,
    OUTPUTS: tl.constexpr,
    BYTES: tl.constexpr,
    EVEN: tl.constexpr,
    BIAS: tl.constexpr,
    PTX: tl.constexpr,
):
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    m = tl.program_id(1)
    k = tl.arange(0, BYTES)
    left = weight + (n % outputs)[:, None] * quarter + k[None, :]
    right = codes + m * columns + k
    sums = tl.zeros((OUTPUTS, BYTES), tl.int32)
    for start in range(0, quarter, BYTES):
        parts = _expand(tl.load(left + start), PTX)
        for part in tl.static_range(4):
            first = start + part * quarter
            x = tl.load(right + first) if EVEN else tl.load(right + first, mask=k + first < columns, other=0)
            sums += parts[part].to(tl.int32) * x.to(tl.int32)[None, :]
    y = tl.sum(sums, 1).to(tl.float32) * (tl.load(scales + m) * alpha)
    if BIAS:
        y += tl.load(bias + n, mask=n < outputs, other=0.0)
    tl.store(out + m * outputs + n, y, mask=n < outputs)


@triton.jit(do_not_specialize=["rows", "size_1", "size_2"])
def _round_kernel(
    values,
    codes,
    scales,
    rows,
    size_1,
    size_2,
    stride_0,
    stride_1,
    stride_2,
    columns,
    clip,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    start = row // (size_1 * size_2) * stride_0 + row // size_2 % size_1 * stride_1 + row % size_2 * stride_2
    x = tl.load(values + start[:, None] + column[None, :], mask=inside, other=0.0)
    largest = tl.minimum(tl.max(tl.abs(x), 1), clip)
    scale = tl.maximum(tl.math.div_rn(largest, 127.0), 1.1754943508222875e-38)  # the smallest normal number
    ratio = tl.math.div_rn(x, tl.broadcast_to(scale[:, None], x.shape))
    # Adding 1.5 · 2^23 leaves no bits after the point, which rounds half to even, as in torch.
    rounded = tl.minimum(tl.maximum(ratio, -127.0), 127.0) + 12582912.0 - 12582912.0
    tl.store(codes + row[:, None] * columns + column[None, :], rounded.to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < rows)


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU instead of compiling them for a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def product(
    codes: Tensor, scales: Tensor, weight: Tensor, alpha: float, bias: Tensor | None, tile: Tile | None = None
) -> Tensor:
    """The output (s·α)·(c·qᵀ) + b of a linear, (M, O) FP32.

    Args:
        codes: c (M, I), int8, contiguous.
        scales: s (M,) FP32.
        weight: q (O, I), packed by `layers.pack_two_bits`.
        alpha: α, the scale of the weight.
        bias: b (O,) FP32, or None.
        tile: one of `TILES`; None: chosen from the number of rows and outputs.
    """
    (rows, columns), (outputs, quarter) = codes.shape, weight.shape
    out = torch.empty((rows, outputs), dtype=torch.float32, device=codes.device)
    if not rows:
        return out
    tile = tile or (None if rows <= FEW_ROWS else _tile(rows, outputs, _multiprocessors(codes.device)))
    together = 1 if tile is None else tile.rows
    shared = {
        "OUTPUTS": _FEW_OUTPUTS if tile is None else tile.outputs,
        "BYTES": next(depth for depth in _DEPTHS if quarter % depth == 0 and depth * together <= _LARGEST_STEP),
        "EVEN": columns == 4 * quarter,
        "BIAS": bias is not None,
        "PTX": not interpreted() and torch.version.cuda is not None,
    }
    # Without a bias, the kernel gets another tensor in its place and does not read it.
    tensors = (codes, scales, weight, alpha, scales if bias is None else bias, out)
    if tile is None:
        grid = (triton.cdiv(outputs, _FEW_OUTPUTS), rows)
        _few_kernel[grid](*tensors, outputs, columns, quarter, **shared)
    else:
        grid = _grid(tile, rows, outputs)
        _tile_kernel[grid](*tensors, rows, outputs, columns, quarter, ROWS=tile.rows, num_warps=tile.warps, **shared)
    return out


def _grid(tile: Tile, rows: int, outputs: int) -> tuple[int, int]:
    return triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows)


def _tile(rows: int, outputs: int, multiprocessors: int) -> Tile:
    def programs(tile: Tile) -> int:
        across, down = _grid(tile, rows, outputs)
        return across * down

    return next((tile for tile in TILES if programs(tile) >= multiprocessors), TILES[-1])


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def round_rows(values: Tensor, clip: float | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantises activations with one scale per token, in one pass.

    Args:
        values: (..., I) FP32, of two to four dimensions.
        clip: values are clamped to ±clip; None: no clamp.
        dtype: type of the integers.

    Returns:
        The integers (..., I), contiguous, and the scales (..., 1) FP32.
    """
    if values.stride(-1) != 1:
        values = values.contiguous()
    columns = values.size(-1)
    codes = torch.empty(values.shape, dtype=dtype, device=values.device)
    scales = torch.empty((*values.shape[:-1], 1), dtype=torch.float32, device=values.device)
    rows = scales.numel()
    if not rows:
        return codes, scales
    four = values[(None,) * (4 - values.dim())]
    width = triton.next_power_of_2(columns)
    together = max(_ROUNDED // width, 1)
    _round_kernel[(triton.cdiv(rows, together),)](
        values,
        codes,
        scales,
        rows,
        *(four.size(1), four.size(2), *four.stride()[:3]),
        columns,
        float("inf") if clip is None else clip,
        ROWS=together,
        COLUMNS=width,
    )
    return codes, scales


class KernelQuantizer(ActivationQuantizer):
    """The student's activation quantiser with 8 bits and one scale per token, by `round_rows`; for inference."""

    def round(self, values: Tensor) -> tuple[Tensor, Tensor, None]:
        """The integers x / s (..., D) in the type of x, and the scales s."""
        return *round_rows(values, self.clip, values.dtype), None

    def _rounded(self, values: Tensor) -> Rounded:
        return Rounded(*round_rows(values, self.clip, torch.int8), None)
