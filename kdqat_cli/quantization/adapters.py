"""Attention modules that transformers leaves outside its attention interface.

MPNet's (transformers 5.23) multiplies queries and keys itself, so no registered function reaches it. An adapter is a
subclass that differs in `forward` alone: it projects, calls the given attention function, and projects out. The
module stays the same object with another class: parameters, their names and hooks are untouched.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


class AdaptedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
    """MPNet's self-attention through `function`."""

    function: Callable[..., tuple[Tensor, None]]

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, position_bias: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """(B, L, D) → MHA(X) (B, L, D), and None in the place of the maps."""
        shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        query, key, value = (linear(hidden_states).view(shape).transpose(1, 2) for linear in (self.q, self.k, self.v))
        context = self.function(
            self, query, key, value, attention_mask, dropout=self.dropout.p, position_bias=position_bias
        )[0]
        return self.o(context.flatten(2)), None


def adapt(model: PreTrainedModel, function: Callable[..., tuple[Tensor, None]]) -> bool:
    """Leads every attention module that needs an adapter to `function`.

    Args:
        model: changed in place.
        function: takes what a function of transformers' attention interface takes, and `position_bias`.

    Returns:
        Whether the model needed adapters; one that did not follows transformers' interface.
    """
    modules = [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]
    for module in modules:
        module.__class__ = AdaptedMPNetSelfAttention
        module.function = function
    return bool(modules)
