"""The attention function of kdqat, which quantises and passes its scores to a capture.

Teacher and student both use it; interface.py makes a model call it. In a student each attention module has an
`ActivationQuantizer` as its attribute `quantizer`. It rounds Q, K, the attention probabilities (after dropout) and V.
Scores, softmax and the residual path stay in full precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.networks.dropout import dropout as drop
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.product import quantized_product


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Softmax attention over 8-bit Q, K, probabilities and V.

    Args:
        module: the attention module, perhaps with the attributes `quantizer`, which rounds, and `on_scores` and
            `on_values`, which receive scores and values.
        query: (B, H, L, D).
        key: (B, H, L, D).
        value: (B, H, L, D).
        attention_mask: additive, broadcastable to (B, H, L, L); None: no mask.
        scaling: factor of the scores; None: 1/√D.
        dropout: probability of dropping an attention probability.
        position_bias: bias of relative positions, broadcastable to (B, H, L, L); added to the scores.

    Returns:
        The context (B, L, H, D), and None in place of the maps, which can be computed from the scores.
    """
    quantizer = getattr(module, "quantizer", None)
    scores = _product(query, key, quantizer, transposed=True)
    scores = scores * (query.size(-1) ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    for name, tensor in (("on_scores", scores), ("on_values", value)):
        if (receives := getattr(module, name, None)) is not None:
            receives(tensor)
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(F.softmax(scores, dim=-1), dropout, module.training)
    context = _product(probabilities, value, quantizer)
    return context.transpose(1, 2).contiguous(), None


def _product(left: Tensor, right: Tensor, quantizer: ActivationQuantizer | None, transposed: bool = False) -> Tensor:
    """The matrix product left · right, or left · rightᵀ; with a quantiser, that of the rounded matrices."""
    if quantizer is None:
        return torch.matmul(left, right.mT if transposed else right)
    return quantized_product(left, right, quantizer, transposed=transposed)
