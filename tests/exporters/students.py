"""Frozen students for the exporters' tests."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import load_recipe
from kdqat_cli.quantizers.parameters import freeze
from tests.architectures import tiny


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model, quantised to ternary weights by the default recipe, and frozen."""
    quantize_model(model, load_recipe("clean").quantization)
    freeze(model)
    return model.eval()


def student(architecture: str, **options: object) -> PreTrainedModel:
    """A tiny frozen student of an architecture."""
    return frozen(tiny(architecture, **options))


def unrounded(model: PreTrainedModel, linears: bool = True) -> PreTrainedModel:
    """A copy that rounds no activations; `linears` False: it rounds only those of linear layers."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if getattr(module, "quantizer", None) is not None and (linears or not hasattr(module, "grouping")):
            module.quantizer = None
    return other


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, labels)."""
    out: Tensor = model(**batch).logits
    return out
