"""What quantisation did to each weight, as a table with one row per quantised weight tensor.

zeros      share of its values that are exactly 0
scale      mean of the scales
entropy    −Σ p log₂ p over the levels, in bits per weight: the size of an ideal code of single levels
error      ‖ŵ − w‖ / ‖w‖, w the teacher's weight of the same name; empty: the teacher has none of this shape
saturated  share of the input's values at or beyond the clamp of activations, at real tokens; empty: no clamp
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kdqat_cli.analysis.measure import Means, Measure, Pair, Seen, Spec
from kdqat_cli.analysis.result import Row
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.parameters import quantized_weights


def entropy(levels: Tensor) -> float:
    """The entropy of the distribution of levels (any shape), in bits per weight."""
    whole = levels.flatten().long()
    counts = (whole - whole.min()).bincount()
    shares = counts[counts > 0].double() / levels.numel()
    return float(-(shares * shares.log2()).sum()) + 0.0  # + 0, because the formula gives -0 for a single level


class _Weights:
    def __init__(self, pair: Pair) -> None:
        self._weights = quantized_weights(pair.model)
        self._teacher = dict(pair.teacher.named_parameters())
        self._beyond: dict[str, Tensor] = {}
        self._saturated = Means()
        self._hooks = [
            weight.register_forward_pre_hook(self._watch(name, weight.quantizer.clip))
            for name, weight in self._weights.items()
            if isinstance(weight, QuantizedLinear)
            and weight.quantizer is not None
            and weight.quantizer.clip is not None
        ]

    def _watch(self, name: str, clip: float) -> Callable[..., None]:
        def hook(_: object, inputs: tuple[Tensor, ...]) -> None:
            self._beyond[name] = (inputs[0].abs() >= clip).double().mean(-1)

        return hook

    def add(self, seen: Seen) -> None:
        for name, beyond in self._beyond.items():
            # A pooler reads one token of each row.
            self._saturated.add((name,), beyond, seen.counted if beyond.shape == seen.counted.shape else None)
        self._beyond.clear()

    @torch.no_grad()
    def table(self) -> list[Row]:
        for hook in self._hooks:
            hook.remove()
        saturated = {row["weight"]: row["value"] for row in self._saturated.rows("weight")}
        rows = []
        for name, weight in self._weights.items():
            codes = weight.codes()
            value = codes.value()
            row: Row = {
                "weight": name,
                "zeros": float((value == 0).double().mean()),
                "scale": float(codes.scales.double().mean()),
                "entropy": entropy(codes.levels),
                "error": self._error(name, codes, value),
                "saturated": saturated.get(name),
            }
            rows.append(row)
        return rows

    def _error(self, name: str, codes: Codes, value: Tensor) -> float | None:
        taught = self._teacher.get(name)
        if taught is None or taught.shape != codes.levels.shape:
            return None
        size = float(taught.double().norm())
        return float((value - taught).double().norm()) / size if size else None


def _make(pair: Pair) -> Measure | None:
    return _Weights(pair) if quantized_weights(pair.model) else None


SPECS = {"weights": Spec("zeros, scale, entropy, error and saturated inputs of each weight", frozenset(), _make)}
