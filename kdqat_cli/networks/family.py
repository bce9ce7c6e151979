"""What kdqat knows of a family of encoders, in one value: each family's own file makes one.

Everything that quantises, captures, packs, serves or exports a model asks its `Family` and names no architecture.
No torch here: the engine reads a packed file without it.

Two kinds of parts have a name. A matrix is a module whose weight is ternary; a vector is a tensor (or a table) in full
precision. A part's role, `query` or `classifier_weight`, is the same in every family; parts.py lists them.
Ternary are all linears of the encoder (pooler included, one scale per matrix) and the word embedding (one scale per
row). Full precision stay position (absolute and relative) and token-type embeddings, normalisation, biases and the
classifier: the reading of "all embedding and weight parameters" that reproduces the paper's 14.9x and 15.4x. Where an
architecture's classifier has a pooler-like linear before its last one (RoBERTa, XLM-R, ELECTRA, DistilBERT, MPNet),
that belongs to the classifier, outside the base model, and stays in full precision too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Config = Mapping[str, Any]
"""What config.json holds."""


@dataclass(frozen=True)
class OwnClassifier:
    """A classifier of kdqat's own on an encoder that has none in transformers.

    Attributes:
        classes: imports and returns the classes of its configuration and its model. The first has `of(config)`, which
            makes a configuration from one of `sources`; the second `from_source`, which loads the encoder of a
            checkpoint of `sources`, with the arguments and results of `from_pretrained`.
        sources: model types of transformers whose encoder this is.
        needs: what `classes` imports, as far as it imports transformers' auto classes itself; see auto_classes.py.
    """

    classes: Callable[[], tuple[Any, Any]]
    sources: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One family of encoders with a classifier.

    Attributes:
        model_type: its name in config.json.
        base: the base model's name in the classifier.
        layers: the list of layers, in the base model.
        words: the word embedding (V, D), in the base model.
        attention: the module that calls the attention function, in a layer.
        layer_matrices: role of a matrix → module, in a layer.
        layer_vectors: role of a vector → tensor, in a layer.
        vectors: role of a vector that belongs to no layer → tensor, in the classifier.
        sizes: field of the engine's configuration → key of config.json.
        head: what the classifier does. pooled: ternary linear, function, linear, on the first token; dense: the same
            with both linears in full precision; mean: a linear on the mean over the tokens.
        head_activation: the function between the two linears.
        matrices: role of a matrix that belongs to no layer → module, in the classifier.
        constants: fields of the engine's configuration that config.json does not tell. `pre_norm` 1: a layer
            normalises what it reads, as T5's does.
        activation: key of config.json for the function of the feed-forward.
        gated_matrices: what differs in `layer_matrices` where config.json says `is_gated_act`.
        relative: the table of relative positions (buckets, H), in the classifier; None: there is none.
        padding_position: from config.json, the position of padding, from which the other tokens count on; None:
            positions count from 0.
        other_heads: how names of tensors begin that belong to heads of other tasks. A checkpoint may hold them.
        llama_cpp: the architecture of llama.cpp that computes the classifier; None: there is none.
        adapt_attention: leads a model's attention modules to kdqat's attention function, in place; None: transformers'
            attention interface does. It imports the modules when it is called.
        own_classifier: None: transformers has the classifier.
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
    constants: dict[str, Any] = field(default_factory=dict)
    activation: str = "hidden_act"
    gated_matrices: dict[str, str] | None = None
    relative: str | None = None
    padding_position: Callable[[Config], int] | None = None
    other_heads: tuple[str, ...] = ("cls.", "lm_head.", "qa_outputs.")
    llama_cpp: str | None = None
    adapt_attention: Callable[[Any], None] | None = None
    own_classifier: OwnClassifier | None = None

    @property
    def pre_norm(self) -> bool:
        """Whether a layer normalises what it reads, and not what it gives."""
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

        In a pre-norm layer MHA(X) is made of the normalised X and added to X as it is. Its attention output is Eq. 7's
        all the same, Y = RMSNorm(X + MHA(X)): the normalised sum that the feed-forward reads. The sum itself grows
        with depth, and a squared error of it would be the top layers' alone.
        """
        return _module(self.layer_vectors["output_gain" if self.pre_norm else "attention_gain"])

    @property
    def last_hidden(self) -> str | None:
        """In the classifier, the module whose output is the last hidden state; None: the last layer.

        As transformers counts, that of a pre-norm encoder is the one after its final normalisation.
        """
        return _module(self.vectors["final_gain"]) if "final_gain" in self.vectors else None

    def layer(self, number: int) -> str:
        """How the names of a layer's parts begin in the classifier."""
        return f"{self.base}.{self.layers}.{number}."

    def configured(self, config: Config) -> "Family":
        """The family with the names that a configuration gives its parts."""
        if not (self.gated_matrices and config.get("is_gated_act")):
            return self
        matrices, constants = self.layer_matrices | self.gated_matrices, self.constants | {"gated": 1}
        return replace(self, layer_matrices=matrices, constants=constants)

    def first_position(self, config: Config) -> int:
        """The row of the position table that a sequence's first token takes.

        Raises:
            ConfigError: positions count from padding's id on, and the configuration has none.
        """
        return 0 if self.padding_position is None else 1 + self.padding_position(config)

    def longest_row(self, config: Config) -> int | None:
        """Tokens of the longest row that a model has positions for; None: rows may have any length.

        Raises:
            ConfigError: as `first_position`.
        """
        if "positions" not in self.vectors:
            return None
        return int(config["max_position_embeddings"]) - self.first_position(config)

    def type_count(self, config: Config) -> int | None:
        """Token types that a model tells apart; None: it looks at none."""
        return int(config["type_vocab_size"]) if "types" in self.vectors else None


def norms(attention: str, output: str) -> dict[str, str]:
    """A layer's vectors, from the modules of its two LayerNorms: after the attention, and after the feed-forward."""
    return {
        "attention_gain": f"{attention}.weight",
        "attention_bias": f"{attention}.bias",
        "output_gain": f"{output}.weight",
        "output_bias": f"{output}.bias",
    }


def embeddings(base: str, types: bool = True) -> dict[str, str]:
    """The vectors of BERT's embeddings, which most families share; `types`: whether there is a table of token types."""
    names = {
        "positions": f"{base}.embeddings.position_embeddings.weight",
        "types": f"{base}.embeddings.token_type_embeddings.weight",
        "embedding_gain": f"{base}.embeddings.LayerNorm.weight",
        "embedding_bias": f"{base}.embeddings.LayerNorm.bias",
    }
    return names if types else {role: name for role, name in names.items() if role != "types"}


def classifier(name: str, dense: str | None = None) -> dict[str, str]:
    """A head's vectors, from the modules of its last linear and of the one in full precision before it."""
    names = {"classifier_weight": f"{name}.weight", "classifier_bias": f"{name}.bias"}
    return names if dense is None else names | {"head_weight": f"{dense}.weight", "head_bias": f"{dense}.bias"}


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]
