"""Linear and embedding layers with ternary weights.

Each holds its latent weight under the plain layer's name, so a state dictionary of the teacher fits the student.
`freeze` puts the ternary weight in the latent one's place, for good: what was evaluated is then what is saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.quantization.activations import ActivationQuantizer
from kdqat_cli.quantization.ternary import Granularity, ternarize, ternarize_latent


class _TernaryWeight(nn.Module):
    """What both layers share: a weight that is ternarised until it is frozen."""

    granularity: Granularity
    weight: nn.Parameter

    def _set_up(self, weight: Any, weight_clip: float | None, frozen: bool) -> None:
        self.weight = weight
        self.weight_clip = weight_clip
        self.frozen = frozen
        self.weight.requires_grad_(not frozen)

    def _ternary(self, latent: Tensor) -> Tensor:
        return latent if self.frozen else ternarize_latent(latent, self.granularity, self.weight_clip)

    @torch.no_grad()
    def freeze(self) -> None:
        """Replaces the latent weight with its ternary one; the layer computes the same from now on."""
        if not self.frozen:
            clip = self.weight_clip
            latent = self.weight if clip is None else self.weight.clamp(-clip, clip)
            self.weight.copy_(ternarize(latent, self.granularity))
            self._set_up(self.weight, clip, frozen=True)


class TernaryLinear(_TernaryWeight):
    """y = quantised(x) · ternary(W)ᵀ + b, with one scale for the matrix W (O, I)."""

    granularity: Granularity = "matrix"

    def __init__(
        self, linear: nn.Linear, weight_clip: float | None, quantizer: ActivationQuantizer | None, frozen: bool
    ) -> None:
        """Takes over the parameters of `linear`; `quantizer` None leaves the input in full precision."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.quantizer = quantizer
        self._set_up(linear.weight, weight_clip, frozen)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) → (..., O)."""
        quantized = inputs if self.quantizer is None else self.quantizer(inputs)
        return F.linear(quantized, self._ternary(self.weight), self.bias)


class TernaryEmbedding(_TernaryWeight):
    """Rows of a ternary table (V, D), with one scale a row.

    The scale of a row depends on that row alone, so only the rows that are looked up are ternarised.
    """

    granularity: Granularity = "row"

    def __init__(self, embedding: nn.Embedding, weight_clip: float | None, frozen: bool) -> None:
        """Takes over the table of `embedding`."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        self._set_up(embedding.weight, weight_clip, frozen)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        rows = F.embedding(input_ids, self.weight, self.padding_idx)
        return self._ternary(rows.flatten(0, -2)).view_as(rows)


def ternary_layers(model: nn.Module) -> dict[str, Any]:
    """The ternary layers of a model by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _TernaryWeight)}


def freeze(model: nn.Module) -> None:
    """Freezes every ternary layer of a model."""
    for layer in ternary_layers(model).values():
        layer.freeze()
