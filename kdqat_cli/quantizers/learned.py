"""Differentiable quantisation: trains the points of quantised weights (Polino et al., ICLR 2018, section 4).

The latent weights do not change, so α and β of their buckets do not change either (points.py has the formula). The
gradient of a point is the sum of ∂L/∂ŵ · α over the weights at that point, with α of their bucket. Points are stored
unsorted and sorted at each use. So each point keeps its own momentum when two change places; the public code sorts the
points but not their momenta. Points may leave [0, 1].
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from kdqat_cli.autograd import Context
from kdqat_cli.quantizers.codes import Codes, Grouping
from kdqat_cli.quantizers.layers import QuantizedWeight
from kdqat_cli.quantizers.parameters import freeze, quantized_weights
from kdqat_cli.quantizers.points import Points, nearest, scaled
from kdqat_cli.quantizers.weights import StraightThrough


class LearnedPoints(nn.Module):
    """Quantises a constant weight at points that are trained; replaces the weight's `StraightThrough`.

    Attributes:
        points: (points,), not sorted.
        plain: the quantiser of the weight before; it is put back when the weight is frozen.
        quantizer: the quantiser `points`.
        clip: None: there is no clamp.
    """

    def __init__(self, weight: QuantizedWeight, quantizer: Points, plain: StraightThrough) -> None:
        """Sets the first points of the quantiser, for a weight that is not frozen."""
        super().__init__()
        self.plain, self.quantizer, self.clip = plain, quantizer, None
        latent = weight.weight.detach()
        values, scales, offsets = scaled(latent, weight.grouping)
        self.points = nn.Parameter(quantizer.first(values))
        # Not in the state: they are computed from the weight, which does not change.
        for name, tensor in (("_values", values), ("_scales", scales), ("_offsets", offsets)):
            self.register_buffer(name, tensor, persistent=False)
        self._values: Tensor
        self._scales: Tensor
        self._offsets: Tensor

    def forward(self, latent: Tensor, grouping: Grouping) -> Tensor:
        """The quantised weight in the shape of the latent weight; the points receive the gradient."""
        out: Tensor = _AtPoints.apply(self.points, self, latent.shape, grouping)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        """The quantised weight at the current points."""
        return self.at(self.points.sort().values, latent.shape, grouping)

    def at(self, points: Tensor, shape: torch.Size, grouping: Grouping) -> Codes:
        """The quantised weight at sorted points."""
        levels = grouping.join(nearest(self._values, points), shape)
        return Codes(levels, self._scales, grouping, self._offsets, points)


class _PointsContext(Context, Protocol):
    grouping: Grouping


class _AtPoints(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _PointsContext, points: Tensor, learned: LearnedPoints, shape: torch.Size, grouping: Grouping
    ) -> Tensor:
        ordered, order = points.sort()
        codes = learned.at(ordered, shape, grouping)
        ctx.save_for_backward(codes.levels, codes.scales, order)
        ctx.grouping = grouping
        return codes.value()

    @staticmethod
    def backward(ctx: _PointsContext, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        levels, scales, order = ctx.saved_tensors
        groups = ctx.grouping.split(grads[0]) * scales[:, None]
        each = ctx.grouping.join(groups, levels.shape).flatten()
        sums = torch.bincount(levels.flatten().int(), each, minlength=len(order)).to(scales.dtype)
        return torch.empty_like(sums).index_copy_(0, order, sums), None, None, None


def learn_points(model: nn.Module, counts: dict[str, int] | None = None) -> None:
    """Makes the points of the quantised weights the only trained parameters of a model.

    Args:
        model: quantised with the quantiser `points`, not frozen; changed in place.
        counts: name of a weight → its number of points; None: the number that the quantiser has.
    """
    model.requires_grad_(False)
    for name, weight in quantized_weights(model).items():
        plain = weight.weight_quantizer
        assert isinstance(plain, StraightThrough)
        quantizer = plain.quantizer
        assert isinstance(quantizer, Points)
        if counts is not None:
            quantizer = Points(counts[name], quantizer.grouping.size, quantizer.start)
        weight.weight_quantizer = LearnedPoints(weight, quantizer, plain)


def settle_points(model: nn.Module, seed: int = 0) -> None:
    """Freezes a model at its learned points, which are then no longer parameters; for `seed` see `freeze`."""
    freeze(model, seed)
    for weight in quantized_weights(model).values():
        learned = weight.weight_quantizer
        del weight.weight_quantizer  # torch does not let a plain value replace a module
        weight.weight_quantizer = learned.plain if isinstance(learned, LearnedPoints) else learned
