"""A user's own weight quantiser with buckets: s = max|w| of a bucket / 3,  ŵ = s · round(w / s)."""

import torch
from torch import Tensor

from kdqat_cli.quantizers.codes import Codes, Grouping


class Buckets:
    """Seven levels with one scale per 48 consecutive values: one and a half rows of the tiny encoder."""

    name = "bucket3"
    levels = range(-3, 4)
    grouping = Grouping("bucket", 48)

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The levels and scales of a latent weight."""
        groups = grouping.split(latent)
        scales = groups.abs().amax(1) / 3
        levels = (groups / scales.where(scales > 0, 1)[:, None]).round().to(torch.int8)
        return Codes(grouping.join(levels, latent.shape), scales, grouping)
