"""Linear and embedding layers with quantised weights.

A layer holds its latent weight under the name that the plain layer uses, so a state dictionary of the teacher fits the
student. `freeze` replaces the latent weight by codes, permanently, so that the weights that were evaluated are saved.
The plain name then holds the value of the codes, so a state dictionary of the student fits the plain model.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.levels import are_trits
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes, Grouping
from kdqat_cli.quantizers.integer import integer_linear, multiplies_integers
from kdqat_cli.quantizers.remembered import Remembered
from kdqat_cli.quantizers.weights import LatentQuantizer, StraightThrough

_PARTS = ("levels", "scales", "offsets", "points")


class QuantizedWeight(nn.Module):
    """The base of the layers: a weight that is quantised at each use until it is frozen.

    Attributes:
        weight: the latent weight; in a frozen layer, the value of its codes.
        weight_quantizer: quantises the latent weight.
        grouping: what shares a scale.
    """

    weight: nn.Parameter
    weight_quantizer: LatentQuantizer
    _levels: Tensor | None
    _scales: Tensor | None
    _offsets: Tensor | None
    _points: Tensor | None

    def __init__(self, weight_quantizer: StraightThrough, grouping: Grouping) -> None:
        """Sets the quantiser; the layer sets `weight`.

        Args:
            weight_quantizer: quantises the latent weight.
            grouping: used where the quantiser has no grouping of its own.
        """
        super().__init__()
        self.weight_quantizer = weight_quantizer
        self.grouping = weight_quantizer.quantizer.grouping or grouping
        # Buffers move to a device with the layer. They are not in its state, which has the names of the plain layer.
        for name in _PARTS:
            self.register_buffer(f"_{name}", None, persistent=False)
        quantizer = weight_quantizer.quantizer
        # The codes of a weight of one number show what kind they are, so a quantiser from outside need not declare it.
        plain = quantizer.codes(torch.zeros(1, 1), MATRIX).multiplies
        self._multiplies_trits = are_trits(quantizer.levels) and plain

    @property
    def is_ternary(self) -> bool:
        """Whether engine and 2-bit formats can hold the weight: levels -1, 0 and 1, one scale per matrix or row."""
        return self._multiplies_trits and self.grouping in (MATRIX, ROW)

    @property
    def described(self) -> str:
        """The kind of weight, for messages."""
        quantizer = self.weight_quantizer.quantizer
        return f"{quantizer.name}, {len(quantizer.levels)} levels with one scale per {self.grouping}"

    @property
    def frozen(self) -> bool:
        """Whether the layer holds codes in place of a latent weight."""
        return self._levels is not None

    def codes(self) -> Codes:
        """The quantised weight: the codes that `freeze` stored, or else those of the latent weight."""
        if self._levels is None or self._scales is None:
            codes: Codes = self.weight_quantizer.codes(self.weight, self.grouping)
            return codes
        return Codes(self._levels, self._scales, self.grouping, self._offsets, self._points)

    @torch.no_grad()
    def freeze(self, codes: Codes | None = None) -> None:
        """Replaces the latent weight by codes.

        Args:
            codes: the codes that the layer holds from now on; None: those of the latent weight, so that the outputs
                stay the same. A frozen layer then does not change.
        """
        if self.frozen and codes is None:
            return
        codes = self.codes() if codes is None else codes
        self.grouping = codes.grouping
        for name in _PARTS:
            setattr(self, f"_{name}", getattr(codes, name))
        self._multiplies_trits = self._multiplies_trits and codes.multiplies
        if self.weight.is_meta:
            self._put(nn.Parameter(codes.value(), requires_grad=False))
        else:
            self.weight.copy_(codes.value()).requires_grad_(False)

    @torch.no_grad()
    def thaw(self, latent: Tensor) -> None:
        """Undoes `freeze`: the weight is quantised at each use again.

        Args:
            latent: the weight as it was.
        """
        for name in _PARTS:
            setattr(self, f"_{name}", None)
        self.weight.copy_(latent).requires_grad_(True)

    def _put(self, weight: Tensor) -> None:
        assert isinstance(weight, nn.Parameter)
        self.weight = weight

    def _quantized(self, latent: Tensor) -> Tensor:
        return latent if self.frozen else self.weight_quantizer(latent, self.grouping)


class QuantizedLinear(QuantizedWeight):
    """y = quantised(x) · quantised(W)ᵀ + b; W (O, I) has one scale unless the quantiser has its own grouping."""

    def __init__(
        self, linear: nn.Linear, weight_quantizer: StraightThrough, quantizer: ActivationQuantizer | None
    ) -> None:
        """Takes over the parameters of `linear`; `quantizer` None leaves the input in full precision."""
        super().__init__(weight_quantizer, MATRIX)
        self._put(linear.weight)
        self._last: Remembered[Codes] = Remembered()
        self.train(linear.training)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.quantizer = quantizer
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) → (..., O)."""
        quantizer = self.quantizer
        fits = self.is_ternary and self.grouping == MATRIX
        if quantizer is not None and fits and multiplies_integers(inputs):
            clip = self.weight_quantizer.clip
            return integer_linear(inputs, quantizer.rounded(inputs), self.weight, self._codes(), clip, self.bias)
        quantized = inputs if quantizer is None else quantizer(inputs)
        # The result has the type of the inputs under autocast too: bfloat16 would give other levels than evaluation.
        return F.linear(quantized, self._quantized(self.weight), self.bias).to(inputs.dtype)

    def train(self, mode: bool = True) -> Self:
        """As in torch. An evaluation computes the codes of the weight once; a training computes them at each step."""
        self._last.forget()
        return super().train(mode)

    def _codes(self) -> Codes:
        remembers = not (self.training or self.frozen)
        return self._last(lambda _: self.codes(), self.weight) if remembers else self.codes()


class QuantizedEmbedding(QuantizedWeight):
    """Rows of a quantised table (V, D), with one scale per row unless the quantiser has a grouping of its own.

    With one scale per row, only the rows that are looked up are quantised. With another grouping, all rows are.
    """

    def __init__(self, embedding: nn.Embedding, weight_quantizer: StraightThrough) -> None:
        """Takes over the table of `embedding`."""
        super().__init__(weight_quantizer, ROW)
        self._put(embedding.weight)
        self.train(embedding.training)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        if self.grouping != ROW:
            return F.embedding(input_ids, self._quantized(self.weight), self.padding_idx)
        rows = F.embedding(input_ids, self.weight, self.padding_idx)
        return self._quantized(rows.flatten(0, -2)).view_as(rows)
