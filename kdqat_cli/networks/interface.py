"""Leads a model's attention to kdqat's function, through transformers' attention interface where the model uses it."""

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from kdqat_cli.networks.attention import attention

NAME = "kdqat"


def use_kdqat_attention(model: PreTrainedModel) -> None:
    """Switches a model to `attention`."""
    if model.config.model_type == "mpnet":
        # Here, not above: MPNet's file loads transformers' auto classes, and those, through kdqat_cli's hook, this one.
        from kdqat_cli.networks.mpnet import adapt_mpnet

        adapt_mpnet(model)
        return
    # Both registries: without a mask function of this name transformers passes no mask, and padding is attended.
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
