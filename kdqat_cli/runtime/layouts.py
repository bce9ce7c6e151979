"""Where each architecture's packed file keeps what the native model wants, and the sizes its configuration tells.

A `Layout` is names and constants alone; the order of computations is the native model's (native/forward.cpp), which
knows two: post-norm (BERT and its kin) and T5's pre-norm.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from kdqat_cli.errors import ConfigError

_FUNCTIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
"""transformers' names of activation functions → the library's."""

_MATRICES = ("query", "key", "value", "output", "up", "gate", "down", "projection", "pooler")
_VECTORS = (
    "attention_gain",
    "attention_bias",
    "output_gain",
    "output_bias",
    "positions",
    "types",
    "embedding_gain",
    "embedding_bias",
    "final_gain",
    "head_weight",
    "head_bias",
    "classifier_weight",
    "classifier_bias",
)
MATRIX_NUMBERS = {name: number for number, name in enumerate(_MATRICES)}
VECTOR_NUMBERS = {name: number for number, name in enumerate(_VECTORS)}
HEADS = {"pooled": 0, "dense": 1, "mean": 2}


@dataclass(frozen=True)
class Layout:
    """One architecture.

    Attributes:
        words: the word embedding.
        layer: prefix of a layer's names; `{}` is its number.
        layer_matrices: matrix of a layer → module, within the layer.
        layer_vectors: values of a layer → tensor, within the layer.
        matrices: matrix that belongs to no layer → module.
        vectors: values that belong to no layer → tensor.
        sizes: the native configuration's field → the key of config.json.
        constants: fields that config.json does not tell.
        head: what the head does: one of `HEADS`.
        head_activation: the function between the head's two linears.
        activation: key of config.json for the function of the feed-forward.
        relative: the table of relative positions (buckets, heads); None: there is none.
        positions_after_padding: positions count from padding's id on, and padding stays there; else from 0.
    """

    words: str
    layer: str
    layer_matrices: dict[str, str]
    layer_vectors: dict[str, str]
    vectors: dict[str, str]
    sizes: dict[str, str]
    head: str
    head_activation: str
    matrices: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    activation: str = "hidden_act"
    relative: str | None = None
    positions_after_padding: bool = False


def _norms(attention: str, output: str) -> dict[str, str]:
    return {
        "attention_gain": f"{attention}.weight",
        "attention_bias": f"{attention}.bias",
        "output_gain": f"{output}.weight",
        "output_bias": f"{output}.bias",
    }


def _embeddings(base: str, types: bool = True) -> dict[str, str]:
    names = {
        "positions": f"{base}.embeddings.position_embeddings.weight",
        "types": f"{base}.embeddings.token_type_embeddings.weight",
        "embedding_gain": f"{base}.embeddings.LayerNorm.weight",
        "embedding_bias": f"{base}.embeddings.LayerNorm.bias",
    }
    return names if types else {key: name for key, name in names.items() if key != "types"}


def _classifier(name: str, dense: str | None = None) -> dict[str, str]:
    names = {"classifier_weight": f"{name}.weight", "classifier_bias": f"{name}.bias"}
    return names if dense is None else names | {"head_weight": f"{dense}.weight", "head_bias": f"{dense}.bias"}


_BERT_SIZES = {
    "hidden": "hidden_size",
    "embedding": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "epsilon": "layer_norm_eps",
    "embedding_epsilon": "layer_norm_eps",
}
_BERT_FEED_FORWARD = {"up": "intermediate.dense", "down": "output.dense"}
_BERT_MATRICES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
} | _BERT_FEED_FORWARD
_DENSE_HEAD = _classifier("classifier.out_proj", "classifier.dense")


def _bert_like(base: str, **parts: Any) -> Layout:
    common = {
        "words": f"{base}.embeddings.word_embeddings",
        "layer": f"{base}.encoder.layer.{{}}.",
        "layer_matrices": _BERT_MATRICES,
        "layer_vectors": _norms("attention.output.LayerNorm", "output.LayerNorm"),
        "vectors": _embeddings(base) | _DENSE_HEAD,
        "sizes": _BERT_SIZES,
        "head": "dense",
        "head_activation": "tanh",
    }
    return Layout(**(common | parts))


_ROBERTA = _bert_like("roberta", positions_after_padding=True)

LAYOUTS: dict[str, Layout] = {
    "bert": _bert_like(
        "bert",
        vectors=_embeddings("bert") | _classifier("classifier"),
        matrices={"pooler": "bert.pooler.dense"},
        head="pooled",
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": _bert_like(
        "electra",
        sizes=_BERT_SIZES | {"embedding": "embedding_size"},
        matrices={"projection": "electra.embeddings_project"},
        head_activation="gelu",
    ),
    "distilbert": Layout(
        words="distilbert.embeddings.word_embeddings",
        layer="distilbert.transformer.layer.{}.",
        layer_matrices={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "output": "attention.out_lin",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
        },
        layer_vectors=_norms("sa_layer_norm", "output_layer_norm"),
        vectors=_embeddings("distilbert", types=False) | _classifier("classifier", "pre_classifier"),
        sizes={"hidden": "dim", "embedding": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim"},
        constants={"epsilon": 1e-12, "embedding_epsilon": 1e-12},
        head="dense",
        head_activation="relu",
        activation="activation",
    ),
    "mpnet": _bert_like(
        "mpnet",
        layer_matrices={
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "output": "attention.attn.o",
        }
        | _BERT_FEED_FORWARD,
        layer_vectors=_norms("attention.LayerNorm", "output.LayerNorm"),
        vectors=_embeddings("mpnet", types=False) | _DENSE_HEAD,
        relative="mpnet.encoder.relative_attention_bias.weight",
        positions_after_padding=True,
    ),
    "kdqat-t5-encoder": Layout(
        words="encoder.embed_tokens",
        layer="encoder.block.{}.layer.",
        layer_matrices={
            "query": "0.SelfAttention.q",
            "key": "0.SelfAttention.k",
            "value": "0.SelfAttention.v",
            "output": "0.SelfAttention.o",
            "up": "1.DenseReluDense.wi",
            "down": "1.DenseReluDense.wo",
        },
        layer_vectors={"attention_gain": "0.layer_norm.weight", "output_gain": "1.layer_norm.weight"},
        vectors={"final_gain": "encoder.final_layer_norm.weight"} | _classifier("classifier"),
        sizes={
            "hidden": "d_model",
            "embedding": "d_model",
            "layers": "num_layers",
            "heads": "num_heads",
            "head_size": "d_kv",
            "inner": "d_ff",
            "epsilon": "layer_norm_epsilon",
            "embedding_epsilon": "layer_norm_epsilon",
        },
        constants={"pre_norm": 1, "scaling": 1.0},
        head="mean",
        head_activation="none",
        activation="dense_act_fn",
        relative="encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
}


def layout_of(config: dict[str, Any]) -> Layout:
    """The layout of a model's configuration.

    Raises:
        ConfigError: an architecture, or a variant of one, that the engine does not serve.
    """
    architecture = config.get("model_type")
    layout = LAYOUTS.get(str(architecture))
    if layout is None:
        raise ConfigError(
            f"The engine does not know the architecture {architecture!r}; it serves {', '.join(LAYOUTS)}."
        )
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConfigError("The engine serves encoders; this model is a decoder.")
    if config.get("is_gated_act"):
        gated = layout.layer_matrices | {"up": "1.DenseReluDense.wi_0", "gate": "1.DenseReluDense.wi_1"}
        return Layout(**(vars(layout) | {"layer_matrices": gated, "constants": layout.constants | {"gated": 1}}))
    return layout


def padding_id(config: dict[str, Any]) -> int:
    """The padding token after whose id positions are counted, where they are (`positions_after_padding`)."""
    return 1 if config["model_type"] == "mpnet" else int(config.get("pad_token_id", 1))


def most_tokens(config: dict[str, Any]) -> int | None:
    """Tokens of the longest row that a model has positions for; None: it has no such bound, as T5.

    Raises:
        ConfigError: as `layout_of`.
    """
    layout = layout_of(config)
    if "positions" not in layout.vectors:
        return None
    return int(config["max_position_embeddings"]) - (padding_id(config) + 1 if layout.positions_after_padding else 0)


def native_sizes(layout: Layout, config: dict[str, Any]) -> dict[str, Any]:
    """The native configuration's fields, as far as config.json and the layout tell them.

    Raises:
        ConfigError: an activation function that the engine does not have, or a size that is missing.
    """
    name = config.get(layout.activation)
    if name not in _FUNCTIONS:
        raise ConfigError(f"The engine does not have the activation function {name!r}; it has {', '.join(_FUNCTIONS)}.")
    try:
        sizes = {key: config[source] for key, source in layout.sizes.items()}
    except KeyError as error:
        raise ConfigError(f"The packed model's configuration does not tell {error}.") from error
    if not all(type(value) in (int, float) and value >= 0 for value in sizes.values()) or not sizes["heads"]:
        raise ConfigError("The packed model's configuration holds a size that is none.")
    sizes.setdefault("head_size", sizes["hidden"] // sizes["heads"])
    if not sizes["head_size"]:
        raise ConfigError("The packed model's configuration has more heads than values to share among them.")
    sizes.setdefault("scaling", 1 / math.sqrt(sizes["head_size"]))
    return sizes | layout.constants | {"activation": _FUNCTIONS[name]}
