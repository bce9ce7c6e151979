"""Ternary weights: TWN (Li & Liu 2016), as Kim et al. (EMNLP 2022) use it.

For a group of weights w (a whole matrix, or one row of the word embedding):

    m = mean|w|,  Δ = 0.7·m,  q = sign(w) where |w| > Δ, else 0,  α = mean of |w| where q ≠ 0,  ŵ = α·q

Guarantees
- A group of zeros gives α = 0 and q = 0, never NaN.
- `split` takes ŵ apart into int8 codes and scales without loss: ŵ == codes · scales, bit for bit. What was
  evaluated can therefore be packed and come back the same.
- For Gaussian weights 57.7 % of the codes are non-zero and the relative squared error is 0.192.

Left out: learned thresholds and scales.
"""

from typing import Literal

import torch
from torch import Tensor

from kdqat_cli.quantizers.activations import masked

THRESHOLD_FACTOR = 0.7

Granularity = Literal["matrix", "row"]


def ternarize(weight: Tensor, granularity: Granularity) -> Tensor:
    """The ternary weight ŵ = α·q (TWN, eq. 4 and 5).

    Args:
        weight: (O, I), any floating type.
        granularity: one scale for the whole matrix, or one for each row.

    Returns:
        (O, I): each value one of -α, 0, +α of its group.
    """
    return join(*codes_of(weight, granularity))


def codes_of(weight: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """The same as codes q and scales α.

    Args:
        weight: (O, I), any floating type.
        granularity: one scale for the whole matrix, or one for each row.

    Returns:
        codes (O, I), int8 in {-1, 0, 1}; scales (1,) or (O,), of the weight's type.
    """
    magnitude = weight.abs()
    dims = (0, 1) if granularity == "matrix" else (1,)
    kept = magnitude > THRESHOLD_FACTOR * magnitude.mean(dims, keepdim=True)
    # clamp: a group of zeros has nothing above its threshold, and 0/1 is the 0 that it needs.
    count = torch.count_nonzero(kept, dims).clamp(min=1)
    scales = masked(magnitude, kept).sum(dims) / count
    return weight.sign().to(torch.int8).mul_(kept.view(torch.int8)), scales.reshape(-1)


def split(ternary: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """Codes and scales of a ternary weight; the inverse of `codes · scales`, bit for bit.

    Args:
        ternary: (O, I), a result of `ternarize`.
        granularity: the one that it was made with.

    Returns:
        codes (O, I), int8 in {-1, 0, 1}; scales (1,) or (O,), of the weight's type.

    Raises:
        ValueError: a group holds more than one magnitude: the weight is not ternary at this granularity.
    """
    scales = ternary.abs().amax() if granularity == "matrix" else ternary.abs().amax(dim=1)
    codes = torch.sign(ternary).to(torch.int8)
    if not torch.equal(join(codes, scales.reshape(-1)), ternary):
        raise ValueError(f"not ternary with one scale a {granularity}")
    return codes, scales.reshape(-1)


def join(codes: Tensor, scales: Tensor) -> Tensor:
    """The ternary weight of codes (O, I) and scales (1,) or (O,)."""
    return codes.to(scales.dtype) * scales[:, None]
