"""Tiny classifiers of every architecture that kdqat knows."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

import kdqat_cli  # noqa: F401 - its import is what registers the classifier on T5's encoder

LAYERS, HIDDEN, HEADS, LABELS, WORDS = 2, 32, 4, 3, 60
_BERT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
_SIZES: dict[str, dict[str, Any]] = {
    "electra": _BERT | {"embedding_size": HIDDEN},
    "distilbert": {
        "dim": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": 40,
        "max_position_embeddings": 40,
    },
    "kdqat-t5-encoder": {
        "d_model": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "d_kv": 6,  # in T5 the heads need not add up to the width
        "d_ff": 40,
        "feed_forward_proj": "gated-gelu",
    },
}


def tiny(architecture: str, **options: Any) -> PreTrainedModel:
    """A classifier in eval mode in which every parameter matters: no bias is 0, no gain is 1, no score is near 0."""
    sizes = _SIZES.get(architecture, _BERT) | options
    config = AutoConfig.for_model(architecture, **{"vocab_size": WORDS, "num_labels": LABELS} | sizes)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def tokens(model: PreTrainedModel, lengths: tuple[int, ...] = (7, 4, 1)) -> dict[str, Tensor]:
    """Random tokens, padded to the longest row."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, WORDS, mask.shape, generator=draw)
    return {"input_ids": ids.where(mask, model.config.pad_token_id), "attention_mask": mask.long()}
