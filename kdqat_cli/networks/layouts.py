"""Where each architecture's packed file keeps what the native model wants, and the sizes its configuration tells.

A `Layout` is names and constants alone; the order of computations is the native model's (native/forward.cpp), which
knows two: post-norm (BERT and its kin) and T5's pre-norm.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from kdqat_cli.config import Section
from kdqat_cli.errors import ConfigError, shown

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
        ConfigError: an architecture that the engine does not serve.
    """
    architecture = config.get("model_type")
    layout = LAYOUTS.get(architecture) if isinstance(architecture, str) else None
    if layout is None:
        raise ConfigError(
            f"The engine does not know the architecture {shown(architecture)}; it serves {', '.join(LAYOUTS)}."
        )
    if config.get("is_gated_act"):
        gated = layout.layer_matrices | {"up": "1.DenseReluDense.wi_0", "gate": "1.DenseReluDense.wi_1"}
        return Layout(**(vars(layout) | {"layer_matrices": gated, "constants": layout.constants | {"gated": 1}}))
    return layout


def require_encoder(config: dict[str, Any]) -> None:
    """Refuses decoders, whose tokens see only what stands before them.

    Raises:
        ConfigError: the configuration is a decoder's.
    """
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConfigError("The engine serves encoders; this model is a decoder.")


def type_count(config: dict[str, Any]) -> int | None:
    """Token types that a model tells apart; None: it looks at none."""
    return int(config["type_vocab_size"]) if "types" in layout_of(config).vectors else None


def first_position(layout: Layout, config: dict[str, Any]) -> int:
    """The row of the position table that a sequence's first token takes."""
    return 1 + padding_position(config) if layout.positions_after_padding else 0


def padding_position(config: dict[str, Any]) -> int:
    """Where padding stays in a model whose positions count from there on."""
    padding = config.get("pad_token_id")
    return 1 if config["model_type"] == "mpnet" or padding is None else int(padding)


def most_tokens(config: dict[str, Any]) -> int | None:
    """Tokens of the longest row that a model has positions for; None: it has no such bound, as T5.

    Raises:
        ConfigError: as `layout_of`.
    """
    layout = layout_of(config)
    if "positions" not in layout.vectors:
        return None
    return int(config["max_position_embeddings"]) - first_position(layout, config)


class Sizes(Section):
    """What a configuration says of a model's sizes; the bounds are far above any real model's.

    The names are those of the native model's configuration.
    """

    hidden: int = Field(ge=1, le=2**16)
    embedding: int = Field(ge=1, le=2**16)
    layers: int = Field(ge=1, le=1024)
    heads: int = Field(ge=1, le=2**16)
    head_size: int = Field(ge=1, le=2**16)
    inner: int = Field(ge=1, le=2**20)
    epsilon: float = Field(ge=1e-20, le=1)
    embedding_epsilon: float = Field(ge=1e-20, le=1)


def sizes_of(layout: Layout, config: dict[str, Any]) -> Sizes:
    """The sizes that a configuration tells.

    Raises:
        ConfigError: one is missing or out of range.
    """
    values = {name: config.get(key) for name, key in layout.sizes.items()}
    values |= {name: value for name, value in layout.constants.items() if name in Sizes.model_fields}
    hidden, heads = values["hidden"], values["heads"]
    if "head_size" not in values and type(hidden) is int and type(heads) is int and heads > 0:
        values["head_size"] = 0 if hidden % heads else hidden // heads
    try:
        return Sizes.model_validate(values)
    except ValidationError as error:
        # A head size is missing where it could not be computed: the sizes that it follows from are at fault as well.
        faults = dict.fromkeys(
            f"{layout.sizes.get(str(name), 'hidden size / number of heads')} is {shown(detail['input'])}"
            for detail in error.errors()
            for name in detail["loc"]
            if detail["type"] != "missing"
        )
        raise ConfigError(f"The packed model's configuration is out of range: {', '.join(faults)}.") from error


def ternary_parts(layout: Layout, sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Ternary weight → (outputs, inputs); without the word embedding, whose rows no size tells."""
    attention = sizes.heads * sizes.head_size
    outputs = dict.fromkeys(("query", "key", "value"), attention) | dict.fromkeys(("up", "gate"), sizes.inner)
    inputs = {"output": attention, "down": sizes.inner, "projection": sizes.embedding}
    shape = {name: (outputs.get(name, sizes.hidden), inputs.get(name, sizes.hidden)) for name in _MATRICES}
    parts = [("", layout.matrices)]
    parts += [(layout.layer.format(number), layout.layer_matrices) for number in range(sizes.layers)]
    return {
        f"{prefix}{module}.weight": shape[name]
        for prefix, matrices in parts
        for name, module in matrices.items()
        if name != "projection" or sizes.embedding != sizes.hidden
    }


def dense_parts(layout: Layout, sizes: Sizes) -> dict[str, tuple[int | None, ...]]:
    """Every other tensor → its shape; None: no size tells that number of rows."""
    hidden, embedding = sizes.hidden, sizes.embedding
    tables: dict[str, tuple[int | None, ...]] = {"positions": (None, embedding), "types": (None, embedding)}
    tables |= {"embedding_gain": (embedding,), "embedding_bias": (embedding,), "head_weight": (hidden, hidden)}
    tables |= {"classifier_weight": (None, hidden), "classifier_bias": (None,)}
    parts = [("", layout.vectors)]
    parts += [(layout.layer.format(number), layout.layer_vectors) for number in range(sizes.layers)]
    dense = {
        f"{prefix}{tensor}": tables.get(name, (hidden,))
        for prefix, vectors in parts
        for name, tensor in vectors.items()
    }
    if not layout.constants.get("pre_norm"):  # T5's linears have no biases
        weights = ternary_parts(layout, sizes).items()
        dense |= {f"{name.removesuffix('weight')}bias": (outputs,) for name, (outputs, _) in weights}
    if layout.relative:
        dense[layout.relative] = (None, sizes.heads)
    return dense


def native_sizes(layout: Layout, config: dict[str, Any]) -> dict[str, Any]:
    """The native configuration's fields, as far as config.json and the layout tell them.

    Raises:
        ConfigError: a decoder, an activation function that the engine does not have, or a size that is missing or out
            of range.
    """
    require_encoder(config)
    name = config.get(layout.activation)
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise ConfigError(
            f"The engine does not have the activation function {shown(name)}; it has {', '.join(_FUNCTIONS)}."
        )
    sizes = sizes_of(layout, config).model_dump()
    return {"scaling": 1 / math.sqrt(sizes["head_size"])} | sizes | layout.constants | {"activation": _FUNCTIONS[name]}
