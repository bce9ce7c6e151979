"""Symmetric uniform quantisation to 4 or 8 bits: what the ternary weights are compared with (Kim et al., section 2.1).

For a group of weights w (a whole matrix, or one row of the word embedding) and b bits:

    s = max|w| / (2^(b-1) - 1),  ŵ = s · round(w / s)

Guarantees
- |ŵ - w| ≤ s / 2; the largest weight of a group is met up to the last bits of its float.
- A group of zeros stays zero.

Left out: zero points, and the public code's own 4-bit quantiser, which has three values only.
"""

import torch
from torch import Tensor

from kdqat_cli.quantizers.codes import Codes, Grouping


class Symmetric:
    """The quantisers `int4` and `int8`; for their attributes see `weights.WeightQuantizer`."""

    grouping = None

    def __init__(self, bits: int) -> None:
        """A quantiser of 2 to 8 bits, which has 2^bits - 1 levels."""
        self.name = f"int{bits}"
        largest = 2 ** (bits - 1) - 1
        self.levels = range(-largest, largest + 1)

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels round(w / s) and scales s of a latent weight of any shape and floating type."""
        groups = grouping.split(latent)
        # The smallest normal number instead of 0: a group of zeros then gives 0, not 0/0.
        scales = (groups.abs().amax(1) / self.levels[-1]).clamp(min=torch.finfo(latent.dtype).tiny)
        levels = (groups / scales[:, None]).round_().to(torch.int8)
        return Codes(grouping.join(levels, latent.shape), scales, grouping)
