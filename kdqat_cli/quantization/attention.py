"""The one attention function of kdqat: quantises, and hands its scores to whoever asked for them.

It is registered with transformers under the name `kdqat` and serves teacher and student alike. On a student each
attention module carries an `ActivationQuantizer` as its attribute `quantizer`; Q, K, the attention probabilities
(after dropout) and V are rounded with it. Scores, softmax and the residual path stay in full precision.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from kdqat_cli.quantization.dropout import dropout as drop
from kdqat_cli.quantization.product import quantized_product

NAME = "kdqat"


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
        module: the attention module; its `quantizer` rounds, its `on_scores` receives the scores.
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
    on_scores = getattr(module, "on_scores", None)
    if on_scores is not None:
        on_scores(scores)
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(F.softmax(scores, dim=-1), dropout, module.training)
    if quantizer is None:
        context = torch.matmul(probabilities, value)
    else:
        context = quantized_product(probabilities, value, quantizer)
    return context.transpose(1, 2).contiguous(), None


def use_kdqat_attention(model: PreTrainedModel) -> None:
    """Switches a model to `attention`."""
    if model.config.model_type == "mpnet":
        # Here, not above: MPNet's file loads transformers' auto classes, and those, through kdqat_cli's hook, this one.
        from kdqat_cli.quantization.adapters import adapt_mpnet

        adapt_mpnet(model)
        return
    # Both registries: without a mask function of this name transformers passes no mask, and padding is attended.
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
