"""All that kdqat knows about a family of encoders, in one value of type `Family`. Each family has a file that makes it.

Code that quantises, captures, packs, serves or exports a model asks the `Family` and never names an architecture.
This file does not import torch, because the engine reads a packed file without torch.

Two kinds of parts have names. A matrix is a module with a ternary weight. A vector is a tensor (or a table) in full
precision. The role of a part, for example `query` or `classifier_weight`, is the same in every family; parts.py lists
the roles.

Ternary are all linears of the encoder (the pooler included, with one scale per matrix) and the word embedding (one
scale per row). Position embeddings (absolute and relative), token-type embeddings, normalisation, biases and the
classifier stay in full precision. This reading of "all embedding and weight parameters" reproduces the paper's 14.9x
and 15.4x. Some classifiers have a pooler-like linear before the last one (RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet).
It belongs to the classifier, outside the base model, so it stays in full precision too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Config = Mapping[str, Any]
"""The content of config.json. Its keys and the types of their values depend on the architecture."""


class LoadingReport(TypedDict):
    """What `from_pretrained` of transformers reports with `output_loading_info`."""

    missing_keys: set[str]
    """Tensors of the model that the checkpoint does not have."""
    unexpected_keys: set[str]
    """Tensors of the checkpoint that the model does not have."""
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """Tensors with another size: name, size in the checkpoint, size in the model."""


@dataclass(frozen=True)
class OwnClassifier:
    """kdqat's own classifier on an encoder for which transformers has no classifier.

    Attributes:
        classes: imports and returns the classes of its configuration and its model. The configuration class has
            `of(config)`, which converts a configuration of one of `sources`. The model class has `from_source`, which
            loads the encoder from a checkpoint of `sources`, with the arguments and results of `from_pretrained`.
        sources: model types of transformers that have this encoder.
        needs: the modules that `classes` imports and that import transformers' auto classes; see auto_classes.py.
    """

    classes: "Callable[[], tuple[type[PreTrainedConfig], type[PreTrainedModel]]]"
    sources: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family of encoders with a classifier.

    Attributes:
        model_type: name of the family in config.json.
        base: name of the base model in the classifier.
        layers: the list of layers, in the base model.
        words: the word embedding (V, D), in the base model.
        attention: the module that calls the attention function, in a layer.
        layer_matrices: role of a matrix → module, in a layer.
        layer_vectors: role of a vector → tensor, in a layer.
        vectors: role of a vector that belongs to no layer → tensor, in the classifier.
        sizes: field of the engine's configuration → key of config.json.
        head: the computation of the classifier. pooled: ternary linear, function, linear, on the first token; dense:
            the same with both linears in full precision; mean: a linear on the mean over the tokens.
        head_activation: the function between the two linears.
        matrices: role of a matrix that belongs to no layer → module, in the classifier.
        constants: fields of the engine's configuration that are not in config.json. `pre_norm` 1: a layer normalises
            its input, as in T5.
        activation: key of config.json for the function of the feed-forward.
        gated_matrices: entries that replace those of `layer_matrices` if config.json has `is_gated_act`.
        relative: the table of relative positions (buckets, H), in the classifier; None: the family has no such table.
        padding_position: config.json → the position of padding tokens; the other tokens are counted from the next one.
            None: positions are counted from 0.
        other_heads: prefixes of the names of tensors that belong to heads of other tasks. A checkpoint may have them.
        llama_cpp: the architecture of llama.cpp that computes the classifier; None: llama.cpp has none.
        adapt_attention: makes the attention modules of a model call kdqat's attention function, in place. It imports
            the modules when it is called. None: transformers' attention interface does it.
        own_classifier: kdqat's own classifier; None: transformers has the classifier.
    """

    model_type: str
    base: str
    layers: str
    words: str
    attention: str
    layer_matrices: dict[str, str]
    layer_vectors: dict[str, str]
    vectors: dict[str, str]
    sizes: dict[str, str]
    head: Literal["pooled", "dense", "mean"]
    head_activation: Literal["tanh", "gelu", "relu", "none"]
    matrices: dict[str, str] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    activation: str = "hidden_act"
    gated_matrices: dict[str, str] | None = None
    relative: str | None = None
    padding_position: Callable[[Config], int] | None = None
    other_heads: tuple[str, ...] = ("cls.", "lm_head.", "qa_outputs.")
    llama_cpp: str | None = None
    adapt_attention: "Callable[[PreTrainedModel], None] | None" = None
    own_classifier: OwnClassifier | None = None

    @property
    def pre_norm(self) -> bool:
        """Whether a layer normalises its input instead of its output."""
        return bool(self.constants.get("pre_norm"))

    @property
    def word_embedding(self) -> str:
        """The word embedding, in the classifier."""
        return f"{self.base}.{self.words}"

    @property
    def mha(self) -> str:
        """In a layer, the module whose output is MHA(X): the attention's output projection."""
        return self.layer_matrices["output"]

    @property
    def attention_output(self) -> str:
        """In a layer, the module whose output is the attention output, Y = LayerNorm(X + MHA(X)).

        In a pre-norm layer, MHA(X) is computed from the normalised X and added to the plain X. Its attention output is
        Y = RMSNorm(X + MHA(X)) as in Eq. 7: the normalised sum, which is the input of the feed-forward. The plain sum
        grows with depth, so the top layers would dominate a squared error of it.
        """
        return _module(self.layer_vectors["output_gain" if self.pre_norm else "attention_gain"])

    @property
    def last_hidden(self) -> str | None:
        """In the classifier, the module whose output is the last hidden state; None: the last layer.

        As in transformers, the last hidden state of a pre-norm encoder is the output of its final normalisation.
        """
        return _module(self.vectors["final_gain"]) if "final_gain" in self.vectors else None

    def layer(self, number: int) -> str:
        """The prefix of the names of a layer's parts in the classifier."""
        return f"{self.base}.{self.layers}.{number}."

    def configured(self, config: Config) -> "Family":
        """The family with the names of parts that depend on the configuration."""
        if not (self.gated_matrices and config.get("is_gated_act")):
            return self
        matrices, constants = self.layer_matrices | self.gated_matrices, self.constants | {"gated": 1}
        return replace(self, layer_matrices=matrices, constants=constants)

    def first_position(self, config: Config) -> int:
        """The row of the position table for the first token of a sequence.

        Raises:
            ConfigError: positions are counted from the id of the padding token, and the configuration has no such id.
        """
        return 0 if self.padding_position is None else 1 + self.padding_position(config)

    def longest_row(self, config: Config) -> int | None:
        """The largest number of tokens that a model has positions for; None: rows may have any length.

        Raises:
            ConfigError: see `first_position`.
        """
        if "positions" not in self.vectors:
            return None
        return int(config["max_position_embeddings"]) - self.first_position(config)

    def type_count(self, config: Config) -> int | None:
        """The number of token types that a model distinguishes; None: it does not use token types."""
        return int(config["type_vocab_size"]) if "types" in self.vectors else None


def norms(attention: str, output: str) -> dict[str, str]:
    """The vectors of a layer, from the names of its LayerNorms after the attention and after the feed-forward."""
    return {
        "attention_gain": f"{attention}.weight",
        "attention_bias": f"{attention}.bias",
        "output_gain": f"{output}.weight",
        "output_bias": f"{output}.bias",
    }


def embeddings(base: str, types: bool = True) -> dict[str, str]:
    """The vectors of BERT's embeddings, which most families have; `types`: whether there is a table of token types."""
    names = {
        "positions": f"{base}.embeddings.position_embeddings.weight",
        "types": f"{base}.embeddings.token_type_embeddings.weight",
        "embedding_gain": f"{base}.embeddings.LayerNorm.weight",
        "embedding_bias": f"{base}.embeddings.LayerNorm.bias",
    }
    return names if types else {role: name for role, name in names.items() if role != "types"}


def classifier(name: str, dense: str | None = None) -> dict[str, str]:
    """The vectors of a head, from the names of its last linear and of the linear in full precision before it."""
    names = {"classifier_weight": f"{name}.weight", "classifier_bias": f"{name}.bias"}
    return names if dense is None else names | {"head_weight": f"{dense}.weight", "head_bias": f"{dense}.bias"}


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]
