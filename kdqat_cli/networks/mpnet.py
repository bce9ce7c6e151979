"""MPNet (Song et al., 2020): BERT's feed-forward, T5's relative positions, and its own attention.

Its attention (transformers 5.23) multiplies queries and keys itself and does not use transformers' attention interface,
so no registered function is called. The adapter is a subclass that only changes `forward`: it projects, calls
`attention`, and projects the result. A module stays the same object and gets another class, so its parameters, their
names and its hooks do not change.
"""

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from kdqat_cli.networks.bert import DENSE_HEAD, FEED_FORWARD, bert_like
from kdqat_cli.networks.family import embeddings, norms

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@cache
def _adapted() -> "type[nn.Module]":
    # Imported here: MPNet's file loads transformers' auto classes, whose hook (kdqat_cli) imports this file.
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

    from kdqat_cli.networks.attention import attention

    class AdaptedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
        """MPNet's self-attention through kdqat's attention function."""

        def forward(
            self,
            hidden_states: "Tensor",
            attention_mask: "Tensor | None" = None,
            position_bias: "Tensor | None" = None,
            **_: object,
        ) -> "tuple[Tensor, None]":
            """(B, L, D) → MHA(X) (B, L, D), and None in place of the maps."""
            shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
            query, key, value = (
                linear(hidden_states).view(shape).transpose(1, 2) for linear in (self.q, self.k, self.v)
            )
            context = attention(
                self, query, key, value, attention_mask, dropout=self.dropout.p, position_bias=position_bias
            )[0]
            return self.o(context.flatten(2)), None

    return AdaptedMPNetSelfAttention


def adapt_attention(model: "PreTrainedModel") -> None:
    """Makes the attention modules of an MPNet call `attention`; the model is changed in place."""
    adapted = _adapted()
    for module in model.modules():
        if isinstance(module, adapted.__bases__):
            module.__class__ = adapted


MPNET = replace(
    bert_like("mpnet", "mpnet"),
    attention="attention.attn",
    layer_matrices={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "output": "attention.attn.o",
    }
    | FEED_FORWARD,
    layer_vectors=norms("attention.LayerNorm", "output.LayerNorm"),
    vectors=embeddings("mpnet", types=False) | DENSE_HEAD,
    relative="mpnet.encoder.relative_attention_bias.weight",
    padding_position=lambda config: 1,  # MPNet ignores the padding id of the configuration
    adapt_attention=adapt_attention,
)
