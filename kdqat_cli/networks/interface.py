"""Makes a model use kdqat's attention function, through transformers' attention interface if the model supports it."""

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from kdqat_cli.networks.attention import attention
from kdqat_cli.networks.modules import family_of

NAME = "kdqat"


def use_kdqat_attention(model: PreTrainedModel) -> None:
    """Makes the attention modules of a model call `attention`; the model is changed in place."""
    adapt = family_of(model).adapt_attention
    if adapt is not None:
        adapt(model)
        return
    # Both are needed: without a mask function of this name, transformers passes no mask, and padding is attended to.
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
