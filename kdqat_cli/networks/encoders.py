"""Where each architecture keeps its layers, its attention and its head.

One `Encoder` describes one family; everything that quantises, captures or packs asks it and names no module itself.
Ternary are all linears of the encoder (pooler included, one scale a matrix) and the word embedding (one scale a
row). Full precision stay position (absolute and relative) and token-type embeddings, normalisation, biases and the
classifier: the reading of "all embedding and weight parameters" that reproduces the paper's 14.9x and 15.4x. Where an
architecture's classifier has a pooler-like linear before its last one (RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet),
that belongs to the classifier, outside the base model, and stays in full precision too.

In a pre-norm encoder (T5's) MHA(X) is made of the normalised X and added to X as it is. Its attention output is
Eq. 7's all the same, Y = RMSNorm(X + MHA(X)): the normalised sum that the feed-forward reads. The sum itself grows
with depth, and a squared error of it would be the top layers' alone. Its last hidden state, as transformers counts
them, is the one after the final RMSNorm.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from kdqat_cli.errors import ConfigError


@dataclass(frozen=True)
class Encoder:
    """Module paths of one architecture family, relative to the base model or to one layer.

    Attributes:
        layers: the list of layers.
        word_embeddings: the table of word embeddings (V, D).
        attention: in a layer, the module that calls the attention function.
        attention_output: in a layer, the module whose output is Y = LayerNorm(X + MHA(X)).
        mha: in a layer, the module whose output is MHA(X): the attention's output projection.
        last_hidden: the module whose output is the last hidden state; None: the last layer.
        first_position: from a configuration, the row of the position table that a sequence's first token takes; None:
            there is no such table, and a sequence may have any length.
        token_types: whether there is a table of token types.
    """

    layers: str
    word_embeddings: str
    attention: str
    attention_output: str
    mha: str
    last_hidden: str | None = None
    first_position: Callable[[PreTrainedConfig], int] | None = lambda config: 0
    token_types: bool = True


_BERT = Encoder(
    layers="encoder.layer",
    word_embeddings="embeddings.word_embeddings",
    attention="attention.self",
    attention_output="attention.output",
    mha="attention.output.dense",
)


def _after_padding(config: PreTrainedConfig) -> int:
    """RoBERTa's padding stays at the position of its id, and the other tokens count from the next one on."""
    padding = config.pad_token_id
    if not isinstance(padding, int) or not 0 <= padding < config.vocab_size:
        raise ConfigError(
            f"The configuration has the pad_token_id {padding}, but positions count from the padding token's id.",
            '"pad_token_id" in config.json, as the model was trained with (RoBERTa: 1)',
        )
    return padding + 1


_ROBERTA = replace(_BERT, first_position=_after_padding)

_DISTILBERT = Encoder(
    layers="transformer.layer",
    word_embeddings="embeddings.word_embeddings",
    attention="attention",
    attention_output="sa_layer_norm",
    mha="attention.out_lin",
    token_types=False,
)

_MPNET = Encoder(
    layers="encoder.layer",
    word_embeddings="embeddings.word_embeddings",
    attention="attention.attn",
    attention_output="attention.LayerNorm",
    mha="attention.attn.o",
    first_position=lambda config: 2,  # as RoBERTa's, but padding is 1 whatever the configuration says
    token_types=False,
)

_T5 = Encoder(
    layers="block",
    word_embeddings="embed_tokens",
    attention="layer.0.SelfAttention",
    attention_output="layer.1.layer_norm",
    mha="layer.0.SelfAttention.o",
    last_hidden="final_layer_norm",
    first_position=None,
    token_types=False,
)

ENCODERS: dict[str, Encoder] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "kdqat-t5-encoder": _T5,
}


def encoder_for(config: PreTrainedConfig) -> Encoder:
    """The description of a configuration's architecture.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    if config.model_type not in ENCODERS:
        raise ConfigError(
            f"kdqat does not know the architecture {config.model_type!r}; it knows {', '.join(ENCODERS)}."
        )
    return ENCODERS[config.model_type]


def encoder_of(model: PreTrainedModel) -> Encoder:
    """The description of a model's architecture.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    return encoder_for(model.config)


def longest_row(config: PreTrainedConfig) -> int | None:
    """Tokens of the longest row that the encoder has positions for; None: rows may have any length."""
    first = encoder_for(config).first_position
    return None if first is None else int(config.max_position_embeddings) - first(config)


def type_count(config: PreTrainedConfig) -> int:
    """Token types that the encoder tells apart."""
    return int(config.type_vocab_size) if encoder_for(config).token_types else 1


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers, from the input up."""
    return list(attrgetter(encoder_of(model).layers)(model.base_model))


def module_at(root: nn.Module, path: str) -> Any:
    """The module at a dotted path."""
    return attrgetter(path)(root)


def classifier_of(model: PreTrainedModel) -> nn.Linear:
    """The last linear of the head, whose rows are the labels."""
    base = {id(module) for module in model.base_model.modules()}
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in base]
    return heads[-1]
