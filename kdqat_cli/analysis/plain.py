"""Converts a quantised model to a plain network of the same architecture, with the values of its codes as weights."""

from typing import Any

from transformers import PreTrainedModel

from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.nets import NETS
from kdqat_cli.quantizers.parameters import plain_state


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without quantisers, in eval mode; its activations are not rounded.

    Args:
        model: a frozen quantised model, or one in full precision; it is not changed.
    """
    made: Any = type(model)(model.config)
    if model.config.model_type not in NETS:
        use_kdqat_attention(made)
    made.load_state_dict(plain_state(model))
    copy: PreTrainedModel = made.to(model.device).eval()
    return copy
