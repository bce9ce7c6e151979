"""The parts of a packed model of a family: which there are, their shapes, and what the engine is told of them.

A `Family` is names and constants alone; the order of computations is the engine's (native/src/forward.cpp), which knows
two: post-norm (BERT and its relatives) and T5's pre-norm.
"""

import math
from typing import Any

from pydantic import Field, ValidationError

from kdqat_cli.config import Section
from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.family import Family

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


def require_encoder(config: dict[str, Any]) -> None:
    """Refuses decoders, whose tokens see only what stands before them.

    Raises:
        ConfigError: the configuration is a decoder's.
    """
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConfigError("The engine serves encoders; this model is a decoder.")


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


def sizes_of(family: Family, config: dict[str, Any], name: str = "The packed model's configuration") -> Sizes:
    """The sizes that a configuration tells.

    Args:
        family: the model's.
        config: as in config.json.
        name: what the error calls it.

    Raises:
        ConfigError: one is missing or out of range.
    """
    values = {field: config.get(key) for field, key in family.sizes.items()}
    values |= {field: value for field, value in family.constants.items() if field in Sizes.model_fields}
    hidden, heads = values["hidden"], values["heads"]
    if "head_size" not in values and type(hidden) is int and type(heads) is int and heads > 0:
        values["head_size"] = 0 if hidden % heads else hidden // heads
    try:
        return Sizes.model_validate(values)
    except ValidationError as error:
        # A head size is missing where it could not be computed: the sizes that it follows from are at fault as well.
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
    """Ternary weight → (outputs, inputs); without the word embedding, whose rows no size tells."""
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
    """Every other tensor → its shape; None: no size tells that number of rows."""
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
    if not family.pre_norm:  # T5's linears have no biases
        weights = ternary_parts(family, sizes).items()
        dense |= {f"{name.removesuffix('weight')}bias": (outputs,) for name, (outputs, _) in weights}
    if family.relative:
        dense[family.relative] = (None, sizes.heads)
    return dense


def native_sizes(family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """The native configuration's fields, as far as config.json and the family tell them.

    Raises:
        ConfigError: a decoder, an activation function that the engine does not have, or a size that is missing or out
            of range.
    """
    require_encoder(config)
    name = config.get(family.activation)
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise ConfigError(
            f"The engine does not have the activation function {shown(name)}; it has {', '.join(_FUNCTIONS)}."
        )
    sizes = sizes_of(family, config).model_dump()
    return {"scaling": 1 / math.sqrt(sizes["head_size"])} | sizes | family.constants | {"activation": _FUNCTIONS[name]}
