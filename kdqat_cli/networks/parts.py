"""The parts of a packed model: their names and shapes, and the configuration for the engine.

A `Family` has only names and constants. The order of the computations is in the engine (native/src/forward.cpp), which
knows two: post-norm (BERT and its relatives) and T5's pre-norm.
"""

import math

from pydantic import Field, ValidationError

from kdqat_cli.config import Section
from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.family import Config, Family

_FUNCTIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
"""transformers' name of an activation function → the name in the native library."""

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


def require_encoder(config: Config) -> None:
    """Refuses decoders, in which a token attends only to the tokens before it.

    Raises:
        ConfigError: the configuration belongs to a decoder.
    """
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConfigError("The engine serves encoders; this model is a decoder.")


class Sizes(Section):
    """The sizes of a model, with the names of the native configuration. The bounds are far above any real model."""

    hidden: int = Field(ge=1, le=2**16)
    embedding: int = Field(ge=1, le=2**16)
    layers: int = Field(ge=1, le=1024)
    heads: int = Field(ge=1, le=2**16)
    head_size: int = Field(ge=1, le=2**16)
    inner: int = Field(ge=1, le=2**20)
    epsilon: float = Field(ge=1e-20, le=1)
    embedding_epsilon: float = Field(ge=1e-20, le=1)


def sizes_of(family: Family, config: Config, name: str = "The packed model's configuration") -> Sizes:
    """The sizes in a configuration.

    Args:
        family: family of the model.
        config: configuration, as in config.json.
        name: name of the configuration in the error.

    Raises:
        ConfigError: a size is missing or out of range.
    """
    values = {field: config.get(key) for field, key in family.sizes.items()}
    values |= {field: value for field, value in family.constants.items() if field in Sizes.model_fields}
    hidden, heads = values["hidden"], values["heads"]
    if "head_size" not in values and type(hidden) is int and type(heads) is int and heads > 0:
        values["head_size"] = 0 if hidden % heads else hidden // heads
    try:
        return Sizes.model_validate(values)
    except ValidationError as error:
        # A missing head size could not be computed from other sizes, and those are reported instead.
        faults = dict.fromkeys(
            f"{family.sizes.get(str(field), 'hidden size / number of heads')} is {shown(detail['input'])}"
            for detail in error.errors()
            for field in detail["loc"]
            if detail["type"] != "missing"
        )
        raise ConfigError(
            f"{name} is out of range: {', '.join(faults)}.", "the config.json that was saved with the weights"
        ) from error


def ternary_parts(family: Family, sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Name of a ternary weight → (outputs, inputs), without the word embedding (its number of rows is not known)."""
    attention = sizes.heads * sizes.head_size
    outputs = dict.fromkeys(("query", "key", "value"), attention) | dict.fromkeys(("up", "gate"), sizes.inner)
    inputs = {"output": attention, "down": sizes.inner, "projection": sizes.embedding}
    shape = {name: (outputs.get(name, sizes.hidden), inputs.get(name, sizes.hidden)) for name in _MATRICES}
    parts = [("", family.matrices)]
    parts += [(family.layer(number), family.layer_matrices) for number in range(sizes.layers)]
    return {
        f"{prefix}{module}.weight": shape[name]
        for prefix, matrices in parts
        for name, module in matrices.items()
        if name != "projection" or sizes.embedding != sizes.hidden
    }


def dense_parts(family: Family, sizes: Sizes) -> dict[str, tuple[int | None, ...]]:
    """Name of every other tensor → its shape; None: the number of rows is not known here."""
    hidden, embedding = sizes.hidden, sizes.embedding
    tables: dict[str, tuple[int | None, ...]] = {"positions": (None, embedding), "types": (None, embedding)}
    tables |= {"embedding_gain": (embedding,), "embedding_bias": (embedding,), "head_weight": (hidden, hidden)}
    tables |= {"classifier_weight": (None, hidden), "classifier_bias": (None,)}
    parts = [("", family.vectors)]
    parts += [(family.layer(number), family.layer_vectors) for number in range(sizes.layers)]
    dense = {
        f"{prefix}{tensor}": tables.get(name, (hidden,))
        for prefix, vectors in parts
        for name, tensor in vectors.items()
    }
    if not family.pre_norm:  # the linears of T5 have no biases
        weights = ternary_parts(family, sizes).items()
        dense |= {f"{name.removesuffix('weight')}bias": (outputs,) for name, (outputs, _) in weights}
    if family.relative:
        dense[family.relative] = (None, sizes.heads)
    return dense


def native_sizes(family: Family, config: Config) -> tuple[dict[str, float], str]:
    """The fields of the native configuration that config.json and the family determine.

    Returns:
        The numbers by name, and the name of the feed-forward's activation function in the library.

    Raises:
        ConfigError: the model is a decoder, the engine does not have its activation function, or a size is missing or
            out of range.
    """
    require_encoder(config)
    name = config.get(family.activation)
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise ConfigError(
            f"The engine does not have the activation function {shown(name)}; it has {', '.join(_FUNCTIONS)}."
        )
    sizes = sizes_of(family, config).model_dump()
    return {"scaling": 1 / math.sqrt(sizes["head_size"])} | sizes | family.constants, _FUNCTIONS[name]
