"""The one attention function of kdqat: quantises, and hands its scores to whoever asked for them.

It serves teacher and student alike; interface.py leads a model to it. On a student each attention module carries an
`ActivationQuantizer` as its attribute `quantizer`; Q, K, the attention probabilities (after dropout) and V are rounded
with it. Scores, softmax and the residual path stay in full precision.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdqat_cli.networks.dropout import dropout as drop
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax attention over 8-bit Q, K, probabilities and V.

    Args:
        module: the attention module; its `quantizer` rounds, its `on_scores` and `on_values` receive scores and values.
        query: (B, H, L, D), as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: additive, broadcastable to (B, H, L, L); None: nothing is masked.
        scaling: factor of the scores; None: 1/√D.
        dropout: probability with which an attention probability is dropped.
        position_bias: bias of relative positions, broadcastable to (B, H, L, L); part of the scores.

    Returns:
        The context (B, L, H, D), and None: maps are not returned but derived from the scores.
    """
    quantizer = getattr(module, "quantizer", None)
    if quantizer is None:
        scores = torch.matmul(query, key.mT)
    else:
        scores = quantized_product(query, key, quantizer, transposed=True)
    scores = scores * (query.size(-1) ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    for name, tensor in (("on_scores", scores), ("on_values", value)):
        if (receives := getattr(module, name, None)) is not None:
            receives(tensor)
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(F.softmax(scores, dim=-1), dropout, module.training)
    if quantizer is None:
        context = torch.matmul(probabilities, value)
    else:
        context = quantized_product(probabilities, value, quantizer)
    return context.transpose(1, 2).contiguous(), None
