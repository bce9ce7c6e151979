"""Linear and embedding layers with quantised weights.

Each holds its latent weight under the plain layer's name, so a state dictionary of the teacher fits the student.
`freeze` puts the quantised weight in the latent one's place, for good: what was evaluated is then what is saved.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.integer import integer_linear, multiplies_integers
from kdqat_cli.quantizers.remembered import Remembered
from kdqat_cli.quantizers.ternary import Granularity, split
from kdqat_cli.quantizers.weights import WeightQuantizer


class _QuantizedWeight(nn.Module):
    """What both layers share: a weight that is quantised at each use until it is frozen."""

    granularity: Granularity
    weight: nn.Parameter

    def _set_up(self, weight: Any, weight_quantizer: WeightQuantizer, frozen: bool) -> None:
        self.weight = weight
        self.weight_quantizer = weight_quantizer
        self.frozen = frozen
        self.weight.requires_grad_(not frozen)

    def _quantized(self, latent: Tensor) -> Tensor:
        return latent if self.frozen else self.weight_quantizer(latent, self.granularity)

    @torch.no_grad()
    def ternary_codes(self) -> tuple[Tensor, Tensor]:
        """Codes (O, I) int8 and scales (1,) or (O,) of the ternary weight; of a latent one, what it would be frozen at.

        Raises:
            ValueError: the weight is quantised to more than three values.
        """
        if self.weight_quantizer.name != "ternary":
            raise ValueError(f"{self.weight_quantizer.name} weights are not ternary")
        if self.frozen:
            return split(self.weight, self.granularity)
        return self.weight_quantizer.ternary_codes(self.weight, self.granularity)

    @torch.no_grad()
    def freeze(self) -> None:
        """Replaces the latent weight with its quantised one; the layer computes the same from now on."""
        if not self.frozen:
            self.weight.copy_(self.weight_quantizer.value(self.weight, self.granularity))
            self._set_up(self.weight, self.weight_quantizer, frozen=True)


class QuantizedLinear(_QuantizedWeight):
    """y = quantised(x) · quantised(W)ᵀ + b, with one scale for the matrix W (O, I)."""

    granularity: Granularity = "matrix"

    def __init__(
        self,
        linear: nn.Linear,
        weight_quantizer: WeightQuantizer,
        quantizer: ActivationQuantizer | None,
        frozen: bool,
    ) -> None:
        """Takes over the parameters of `linear`; `quantizer` None leaves the input in full precision."""
        super().__init__()
        self._last: Remembered[tuple[Tensor, Tensor]] = Remembered()
        self.train(linear.training)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.quantizer = quantizer
        self._set_up(linear.weight, weight_quantizer, frozen)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) → (..., O)."""
        quantizer, weights = self.quantizer, self.weight_quantizer
        if quantizer is not None and weights.name == "ternary" and multiplies_integers(inputs):
            signs, alpha = self._codes()
            return integer_linear(inputs, quantizer.codes(inputs), self.weight, signs, alpha, weights.clip, self.bias)
        quantized = inputs if quantizer is None else quantizer(inputs)
        # In the inputs' type under autocast, too: scales and codes of bfloat16 would be others than an evaluation's.
        return F.linear(quantized, self._quantized(self.weight), self.bias).to(inputs.dtype)

    def train(self, mode: bool = True) -> Self:
        """torch's; an evaluation takes the weight's codes once, a training, which changes it, at each step."""
        self._last.forget()
        return super().train(mode)

    def _codes(self) -> tuple[Tensor, Tensor]:
        return self.ternary_codes() if self.training else self._last(lambda _: self.ternary_codes(), self.weight)


class QuantizedEmbedding(_QuantizedWeight):
    """Rows of a quantised table (V, D), with one scale a row.

    The scale of a row depends on that row alone, so only the rows that are looked up are quantised.
    """

    granularity: Granularity = "row"

    def __init__(self, embedding: nn.Embedding, weight_quantizer: WeightQuantizer, frozen: bool) -> None:
        """Takes over the table of `embedding`."""
        super().__init__()
        self.train(embedding.training)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        self._set_up(embedding.weight, weight_quantizer, frozen)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        rows = F.embedding(input_ids, self.weight, self.padding_idx)
        return self._quantized(rows.flatten(0, -2)).view_as(rows)


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """The quantised layers of a model by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _QuantizedWeight)}


def freeze(model: nn.Module) -> None:
    """Freezes every quantised layer of a model."""
    for layer in quantized_layers(model).values():
        layer.freeze()
