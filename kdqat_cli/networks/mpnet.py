"""MPNet (Song et al., 2020): BERT's feed-forward, T5's relative positions, and an attention of its own.

Its attention (transformers 5.23) multiplies queries and keys itself, outside transformers' attention interface, so that
no registered function reaches it. The adapter is a subclass that differs in `forward` alone: it projects, calls
`attention`, and projects out. The module stays the same object with another class: parameters, their names and hooks
are untouched.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from kdqat_cli.networks.bert import DENSE_HEAD, FEED_FORWARD, bert_like
from kdqat_cli.networks.family import embeddings, norms

if TYPE_CHECKING:
    from torch import Tensor


@cache
def _adapted() -> Any:
    # Here, not above: MPNet's file loads transformers' auto classes, and those, through kdqat_cli's hook, this one.
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

    from kdqat_cli.networks.attention import attention

    class AdaptedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
        """MPNet's self-attention through kdqat's attention function."""

        def forward(
            self,
            hidden_states: "Tensor",
            attention_mask: "Tensor | None" = None,
            position_bias: "Tensor | None" = None,
            **_: Any,
        ) -> "tuple[Tensor, None]":
            """(B, L, D) → MHA(X) (B, L, D), and None in the place of the maps."""
            shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
            query, key, value = (
                linear(hidden_states).view(shape).transpose(1, 2) for linear in (self.q, self.k, self.v)
            )
            context = attention(
                self, query, key, value, attention_mask, dropout=self.dropout.p, position_bias=position_bias
            )[0]
            return self.o(context.flatten(2)), None

    return AdaptedMPNetSelfAttention


def adapt_attention(model: Any) -> None:
    """Leads the attention modules of an MPNet to `attention`; the model is changed in place."""
    adapted = _adapted()
    for module in model.modules():
        if isinstance(module, adapted.__base__):
            module.__class__ = adapted


MPNET = bert_like(
    "mpnet",
    "mpnet",
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
    padding_position=lambda config: 1,  # whatever the configuration says of padding
    adapt_attention=adapt_attention,
)
