"""Ternary weights by TWN (Li & Liu 2016), as used by Kim et al. (EMNLP 2022).

For a group of weights w (a whole matrix, or one row of the word embedding):

    m = mean|w|,  Δ = 0.7·m,  q = sign(w) where |w| > Δ, else 0,  α = mean of |w| where q ≠ 0,  ŵ = α·q

(TWN, eq. 4 and 5)

Guarantees
- A group of zeros gives α = 0 and q = 0, never NaN.
- For Gaussian weights, 57.7 % of the levels are not 0, and the relative squared error is 0.192.

Left out: learned thresholds and scales.
"""

import torch
from torch import Tensor

from kdqat_cli.quantizers.activations import masked
from kdqat_cli.quantizers.codes import Codes, Grouping

THRESHOLD_FACTOR = 0.7


class Ternary:
    """The quantiser `ternary`; `weights.WeightQuantizer` explains its attributes."""

    name = "ternary"
    levels = range(-1, 2)
    grouping = None

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """Levels q and scales α of a latent weight of any shape and floating type."""
        groups = grouping.split(latent)
        magnitude = groups.abs()
        kept = magnitude > THRESHOLD_FACTOR * magnitude.mean(1, keepdim=True)
        # The clamp is for a group of zeros: no weight is above its threshold, and its scale becomes 0/1 = 0.
        scales = masked(magnitude, kept).sum(1) / torch.count_nonzero(kept, 1).clamp(min=1)
        levels = groups.sign().to(torch.int8).mul_(kept.view(torch.int8))
        return Codes(grouping.join(levels, latent.shape), scales, grouping)
