"""The weight quantisers: one interface, one catalogue.

A latent weight is clamped, quantised anew at each forward, and gets a straight-through gradient: identity, and zero
where |w| reaches the clamp. Scales and thresholds get no gradient.

    weights    values of a group
    ternary    -α, 0, +α          ternary.py
    int4       15, uniform        uniform.py
    int8       255, uniform       uniform.py

To add one: a class with the members of `WeightQuantizer` and a line in `WEIGHTS` and in `LEVELS`; or, from outside,
`register`. It then trains, freezes, saves and loads. It packs and exports where its levels are -1, 0 and 1, with one
scale per matrix (per row in the word embedding).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdqat_cli.names import LEVELS
from kdqat_cli.quantizers.codes import Codes, Grouping
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform


class WeightQuantizer(Protocol):
    """What quantises a latent weight."""

    @property
    def name(self) -> str:
        """The value of `--weights`."""

    @property
    def levels(self) -> Collection[int]:
        """The integers that the weights are multiples of."""

    @property
    def grouping(self) -> Grouping | None:
        """What shares a scale, in every layer; None: a linear has one scale per matrix, an embedding one per row."""

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The quantised weight of a latent one, of any floating type; no gradient is asked for."""


WEIGHTS: dict[str, WeightQuantizer] = {
    quantizer.name: quantizer for quantizer in (Ternary(), Uniform(bits=4), Uniform(bits=8))
}


def register(quantizer: WeightQuantizer) -> None:
    """Adds a quantiser to the catalogue; its name is then a value of `--weights`.

    Raises:
        ValueError: its name is taken.
    """
    LEVELS.add(quantizer.name, quantizer.levels)
    WEIGHTS[quantizer.name] = quantizer


@dataclass(frozen=True)
class StraightThrough:
    """A quantiser of latent weights that are trained.

    Attributes:
        quantizer: what quantises them.
        clip: the latent weight is clamped to ±clip first, and gets no gradient where |w| ≥ clip; None: no clamp.
    """

    quantizer: WeightQuantizer
    clip: float | None

    def __call__(self, latent: Tensor, grouping: Grouping) -> Tensor:
        """The quantised weight of a latent one, of its shape; gradient straight-through."""
        out: Tensor = _StraightThrough.apply(latent, self, grouping)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The quantised weight of a latent one as levels and scales."""
        clamped = latent if self.clip is None else latent.clamp(-self.clip, self.clip)
        return self.quantizer.codes(clamped, grouping)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, quantizer: StraightThrough, grouping: Grouping) -> Tensor:
        ctx.clip = quantizer.clip
        if ctx.clip is not None:
            ctx.save_for_backward(latent)
        return quantizer.codes(latent, grouping).value()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        if ctx.clip is not None:
            (latent,) = ctx.saved_tensors
            grad = torch.where(latent.abs() < ctx.clip, grad, 0)
        return grad, None, None
