"""Leads a model's attention to kdqat's function, through transformers' attention interface where the model uses it."""

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from kdqat_cli.networks.attention import attention
from kdqat_cli.networks.modules import family_of

NAME = "kdqat"


def use_kdqat_attention(model: PreTrainedModel) -> None:
    """Switches a model to `attention`."""
    adapt = family_of(model).adapt_attention
    if adapt is not None:
        adapt(model)
        return
    # Both registries: without a mask function of this name transformers passes no mask, and padding is attended.
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
