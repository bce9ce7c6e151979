"""The weight quantisers: one interface, one catalogue.

A latent weight is clamped, quantised anew at each forward, and gets a straight-through gradient: identity, and zero
where |w| reaches the clamp. Scales and thresholds get no gradient.

    weights    values of a group
    ternary    -α, 0, +α          ternary.py
    int4       15, uniform        uniform.py
    int8       255, uniform       uniform.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdqat_cli.config import WeightsName
from kdqat_cli.quantizers.ternary import Granularity, codes_of, ternarize
from kdqat_cli.quantizers.uniform import round_uniform

WEIGHTS: dict[WeightsName, Callable[[Tensor, Granularity], Tensor]] = {
    "ternary": ternarize,
    "int4": partial(round_uniform, bits=4),
    "int8": partial(round_uniform, bits=8),
}


@dataclass(frozen=True)
class WeightQuantizer:
    """Maps a latent weight to its quantised value.

    Attributes:
        name: one of `WEIGHTS`.
        clip: the latent weight is clamped to ±clip first, and gets no gradient where |w| ≥ clip; None: no clamp.
    """

    name: WeightsName
    clip: float | None

    def __call__(self, latent: Tensor, granularity: Granularity) -> Tensor:
        """The quantised weight (O, I) of a latent one (O, I); gradient straight-through."""
        out: Tensor = _StraightThrough.apply(latent, self, granularity)  # type: ignore[no-untyped-call]
        return out

    def value(self, latent: Tensor, granularity: Granularity) -> Tensor:
        """The quantised weight (O, I) as a plain function of the latent one (O, I)."""
        return WEIGHTS[self.name](self._clamped(latent), granularity)

    def ternary_codes(self, latent: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
        """The value of a ternary quantiser as `codes_of` gives it."""
        return codes_of(self._clamped(latent), granularity)

    def _clamped(self, latent: Tensor) -> Tensor:
        return latent if self.clip is None else latent.clamp(-self.clip, self.clip)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, quantizer: WeightQuantizer, granularity: Granularity) -> Tensor:
        ctx.clip = quantizer.clip
        if ctx.clip is not None:
            ctx.save_for_backward(latent)
        return quantizer.value(latent, granularity)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        if ctx.clip is not None:
            (latent,) = ctx.saved_tensors
            grad = torch.where(latent.abs() < ctx.clip, grad, 0)
        return grad, None, None
