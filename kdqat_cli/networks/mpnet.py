"""Attention modules that transformers leaves outside its attention interface.

MPNet's (transformers 5.23) multiplies queries and keys itself, so no registered function reaches it. An adapter is a
subclass that differs in `forward` alone: it projects, calls `attention`, and projects out. The module
stays the same object with another class: parameters, their names and hooks are untouched.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from kdqat_cli.networks.attention import attention


class AdaptedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
    """MPNet's self-attention through kdqat's attention function."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """(B, L, D) → MHA(X) (B, L, D), and None in the place of the maps."""
        shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        query, key, value = (linear(hidden_states).view(shape).transpose(1, 2) for linear in (self.q, self.k, self.v))
        context = attention(
            self, query, key, value, attention_mask, dropout=self.dropout.p, position_bias=position_bias
        )[0]
        return self.o(context.flatten(2)), None


def adapt_mpnet(model: PreTrainedModel) -> None:
    """Leads the attention modules of an MPNet to `attention`; the model is changed in place."""
    for module in model.modules():
        if isinstance(module, MPNetSelfAttention):
            module.__class__ = AdaptedMPNetSelfAttention
