"""Uniform symmetric quantisation to 4 or 8 bits: what the ternary weights are compared with (Kim et al., section 2.1).

For a group of weights w (a whole matrix, or one row of the word embedding) and b bits:

    s = max|w| / (2^(b-1) - 1),  ŵ = s · round(w / s)

Guarantees
- |ŵ - w| ≤ s / 2; the largest weight of a group is met up to the last bits of its float.
- A group of zeros stays zero.

Left out: zero points, and the public code's own 4-bit quantiser, which has three values only.
"""

import torch
from torch import Tensor

from kdqat_cli.quantizers.ternary import Granularity


def round_uniform(weight: Tensor, granularity: Granularity, bits: int) -> Tensor:
    """ŵ = s · round(w / s), with at most 2^bits - 1 values in a group.

    Args:
        weight: (O, I), any floating type.
        granularity: one scale for the whole matrix, or one for each row.
        bits: at least 2.

    Returns:
        (O, I).
    """
    dims = (0, 1) if granularity == "matrix" else (1,)
    levels = 2 ** (bits - 1) - 1
    # The smallest normal number instead of 0: a group of zeros then gives 0, not 0/0.
    scale = (weight.abs().amax(dims, keepdim=True) / levels).clamp(min=torch.finfo(weight.dtype).tiny)
    rounded: Tensor = (weight / scale).round_().mul_(scale)
    return rounded
