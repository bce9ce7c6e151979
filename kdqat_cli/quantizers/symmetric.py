"""Symmetric uniform quantisation to 4 or 8 bits, to compare ternary weights with (Kim et al., section 2.1).

For a group of weights w (a whole matrix, or one row of the word embedding) and b bits:

    s = max|w| / (2^(b-1) - 1),  ŵ = s · round(w / s)

Guarantees
- |ŵ - w| ≤ s / 2. The largest weight of a group keeps its value, up to rounding in the last bits.
- A group of zeros stays zero.

Left out: zero points, and the 4-bit quantiser of the public code, which has only three values.
"""

import torch
from torch import Tensor

from kdqat_cli.quantizers.codes import Codes, Grouping


class Symmetric:
    """The quantisers `int4` and `int8`; `weights.WeightQuantizer` explains their attributes."""

    grouping = None

    def __init__(self, bits: int) -> None:
        """A quantiser of 2 to 8 bits with 2^bits - 1 levels."""
        self.name = f"int{bits}"
        largest = 2 ** (bits - 1) - 1
        self.levels = range(-largest, largest + 1)

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels round(w / s) and scales s of a latent weight of any shape and floating type."""
        groups = grouping.split(latent)
        # At least the smallest normal number, so that a group of zeros gives 0 and not 0/0.
        scales = (groups.abs().amax(1) / self.levels[-1]).clamp(min=torch.finfo(latent.dtype).tiny)
        levels = (groups / scales[:, None]).round_().to(torch.int8)
        return Codes(grouping.join(levels, latent.shape), scales, grouping)
