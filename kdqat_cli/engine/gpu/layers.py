"""Linears and word embeddings with two bits per weight, on any device of torch.

    byte[o, j] = Σ_{i<4} (code[o, i·Q + j] + 1) · 4^i,   Q = I / 4, rounded up to a multiple of 32

The end of a row is padded with code 0. Activations are quantised by the student's quantiser, or by the Triton kernel
that computes the same. The sums over columns are exact integers in both cases.
"""

import importlib.util
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear

_CODES_PER_BYTE = 4
_ALIGNMENT = 32  # bytes; the depth of one step of the tensor cores
_CAPABILITY = (8, 0)  # the kernels are compiled for this compute capability (Ampere) and newer


@cache
def runs_triton(device: torch.device) -> bool:
    """Whether the Triton kernels run on a device and compute the correct result."""
    if importlib.util.find_spec("triton") is None:
        return False
    from kdqat_cli.engine.gpu.kernels import interpreted, product

    if device.type != "cuda":
        return interpreted()
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    codes = (torch.arange(32 * 128) % 255 - 127).to(torch.int8).view(32, 128)
    weight = (torch.arange(64 * 128) % 3 - 1).to(torch.int8).view(64, 128)
    try:
        out = product(codes.to(device), torch.ones(32, device=device), pack_two_bits(weight).to(device), 1.0, None)
    # Any error: Triton may be too old, or may not find the C compiler that it needs to build launchers.
    except Exception:
        return False
    return torch.equal(out.cpu(), codes.float() @ weight.float().t())


def pack_two_bits(codes: Tensor) -> Tensor:
    """Codes (O, I) in {-1, 0, 1} → bytes (O, Q), int8."""
    digits = F.pad(codes.view(torch.uint8) + 1, (0, -codes.size(1) % (_CODES_PER_BYTE * _ALIGNMENT)), value=1)
    first, second, third, fourth = digits.chunk(_CODES_PER_BYTE, 1)
    return (first | second << 2 | third << 4 | fourth << 6).view(torch.int8)


def unpack_two_bits(packed: Tensor, columns: int) -> Tensor:
    """Bytes (..., Q) → codes (..., columns), int8."""
    return torch.cat([((packed >> 2 * place) & 3) - 1 for place in range(_CODES_PER_BYTE)], -1)[..., :columns]


def integer_sums(codes: Tensor, weight: Tensor) -> Tensor:
    """c·qᵀ (M, O), int32, of c (M, I) int8 and a packed weight (O, Q), by torch, which expands q at each use."""
    expanded = unpack_two_bits(weight, _CODES_PER_BYTE * weight.size(1))
    rows, outputs = len(codes), len(weight)
    # cuBLAS needs more than 16 rows, and multiples of 8 everywhere.
    more_rows = max(32 - rows, -rows % 8)
    padded = F.pad(codes, (0, expanded.size(1) - codes.size(1), 0, more_rows))
    return torch._int_mm(padded, F.pad(expanded, (0, 0, 0, -outputs % 8)).t())[:rows, :outputs]


def ternary_product(codes: Tensor, scales: Tensor, weight: Tensor, alpha: float, bias: Tensor | None) -> Tensor:
    """The output (s·α)·(c·qᵀ) + b, (M, O) FP32, of c (M, I) int8, s (M,), a packed weight (O, Q), α, and b (O,)."""
    if runs_triton(codes.device):
        from kdqat_cli.engine.gpu.kernels import product

        return product(codes, scales, weight, alpha, bias)
    out = integer_sums(codes, weight).float().mul_((scales * alpha)[:, None])
    return out if bias is None else out.add_(bias)


class PackedLinear(nn.Module):
    """A frozen `QuantizedLinear` with 2-bit codes."""

    weight: Tensor

    def __init__(self, linear: QuantizedLinear, codes: Codes) -> None:
        """Takes over the quantiser and the bias of `linear`; codes (O, I) with one scale per matrix."""
        super().__init__()
        assert linear.quantizer is not None
        self.quantizer = linear.quantizer
        self.scale = float(codes.scales)
        self.bias = linear.bias
        # With this name and an int8 type, T5's feed-forward does not cast its input to the type of the weight.
        self.register_buffer("weight", pack_two_bits(codes.levels), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) → (..., O)."""
        rounded = self.quantizer.rounded(inputs)
        values, scales = rounded.values.flatten(0, -2), rounded.scale.flatten()
        out = ternary_product(values, scales, self.weight, self.scale, self.bias)
        return out.view(*inputs.shape[:-1], -1)


class PackedEmbedding(nn.Module):
    """A frozen `QuantizedEmbedding` with 2-bit codes; only the rows that are looked up are expanded."""

    weight: Tensor
    scales: Tensor

    def __init__(self, embedding: QuantizedEmbedding, codes: Codes) -> None:
        """Takes over the sizes of `embedding`; codes (V, D) with one scale per row."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.register_buffer("weight", pack_two_bits(codes.levels), persistent=False)
        self.register_buffer("scales", codes.scales, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        codes = unpack_two_bits(self.weight[input_ids], self.embedding_dim)
        return codes * self.scales[input_ids][..., None]
