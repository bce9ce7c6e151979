"""Checks that the configuration, the tensors and the record of a packed model fit each other.

The sha256 of a packed file shows that nothing changed since it was written. It does not show that the model can be
computed. So every reader and every writer of a file calls `fault_of` before a model is built. It checks that sizes are
in range, that every tensor that the sizes require is there in its shape and no other tensor is, and that no value of a
forward pass can leave the range of FP32. For the last check, bounds of all steps are computed from the largest weights:
a value in a normalised row of n values is at most √n, and a linear with n inputs multiplies by at most n·scale.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.levels import are_trits
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.family import Family
from kdqat_cli.networks.nets import NETS
from kdqat_cli.networks.parts import Sizes, dense_parts, sizes_of, ternary_parts
from kdqat_cli.packing.coded import SCALES

if TYPE_CHECKING:
    from kdqat_cli.packing.packed_file import PackedParts

_LARGEST = 1e37  # the largest number of FP32 is 3.4e38
_ROUNDED_UP = 1 + 2**20 / 254  # a bound for the sum of 2^20 probabilities, rounded to multiples of 1/127 of the largest
_TABLES = {"words": "vocab_size", "positions": "max_position_embeddings", "types": "type_vocab_size"}
"""Table → the key of config.json with its number of rows."""


def fault_of(parts: "PackedParts") -> str | None:
    """What does not fit in a packed model, as the end of a sentence; None: everything fits.

    For a network that is not an encoder, only numbers and levels are checked here; network.py checks the tensors.
    """
    model_type = parts.config.get("model_type")
    net = NETS.get(model_type) if isinstance(model_type, str) else None
    if net is not None:
        if parts.record.rows_kind != net.reads:
            return f"the record has rows of the kind {shown(parts.record.rows_kind)}."
        return _strange_number(parts.config) or _wrong_levels(parts)
    try:
        family = configured(parts.config)
        sizes = sizes_of(family, parts.config)
        return (
            _strange_number(parts.config)
            or _wrong_tensor(parts, family, sizes)
            or _wrong_configuration(parts, family)
            or _wrong_record(parts, family)
            or _overflow(parts, family, sizes)
        )
    except ConfigError as error:
        return error.sentence


def not_ternary(parts: "PackedParts") -> str | None:
    """The first matrix or word embedding that is not ternary, which the engine does not support; None: all are ternary.

    Raises:
        ConfigError: kdqat does not know the architecture, or a size is out of range.
    """
    family = configured(parts.config)
    names = [f"{family.word_embedding}.weight", *ternary_parts(family, sizes_of(family, parts.config))]
    return next((name for name in names if name not in parts.shapes and parts.shape(name) is not None), None)


def _strange_number(value: object, place: str = "config") -> str | None:
    """A number that no real configuration has. All keys are checked, because a model class may use any of them."""
    if isinstance(value, dict | list) and place.count(".") < 8:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next(filter(None, (_strange_number(part, f"{place}.{key}") for key, part in items)), None)
    strange = isinstance(value, int | float) and not abs(value) < 2**31
    return f"{place} is {shown(value)}." if strange or isinstance(value, dict | list) else None


def _wrong_tensor(parts: "PackedParts", family: Family, sizes: Sizes) -> str | None:
    words = f"{family.word_embedding}.weight"
    rows = (parts.shape(words) or (0,))[0]
    matrices = {words: (rows, sizes.embedding)} | ternary_parts(family, sizes)
    dense = dense_parts(family, sizes)
    for name in [*matrices, *dense]:
        if parts.shape(name) is None:
            return f"{name} is missing."
    for name, shape in matrices.items():
        if parts.shape(name) != shape:
            return f"{name} has the shape {parts.shape(name)}, not {shape}."
        scales = rows if name == words else 1
        if name in parts.shapes and parts.shapes[name][2] != scales:
            return f"{name} has {parts.shapes[name][2]} scales, not {scales}."
    for name, wanted in dense.items():
        if name not in parts.arrays:
            return f"{name} is quantised."
        given = parts.arrays[name].shape
        if len(given) != len(wanted) or any(a != b and b is not None for a, b in zip(given, wanted, strict=True)):
            return f"{name} has the shape {given}, not {tuple('any' if size is None else size for size in wanted)}."
    other = (set(parts.arrays) | set(parts.coded)) - matrices.keys() - dense.keys() - {SCALES}
    return f"{min(other)} belongs to no part of this architecture." if other else None


def _wrong_configuration(parts: "PackedParts", family: Family) -> str | None:
    config = parts.config
    rows = {"words": (parts.shape(f"{family.word_embedding}.weight") or (0,))[0]}
    rows |= {name: len(parts.arrays[family.vectors[name]]) for name in ("positions", "types") if name in family.vectors}
    for name, count in rows.items():
        if not count or type(config.get(_TABLES[name])) is not int or config[_TABLES[name]] != count:
            return f"{_TABLES[name]} is {shown(config.get(_TABLES[name]))}, but the table has {count} rows."
    padding = config.get("pad_token_id")
    if padding is not None and not (type(padding) is int and 0 <= padding < rows["words"]):
        return f"pad_token_id is {shown(padding)}, but there are {rows['words']} tokens."
    if family.relative:
        buckets, farthest = (config.get(f"relative_attention_{key}") for key in ("num_buckets", "max_distance"))
        buckets, farthest = 32 if buckets is None else buckets, 128 if farthest is None else farthest
        if buckets != len(parts.arrays[family.relative]) or type(buckets) is not int or buckets < 4:
            return f"relative_attention_num_buckets is {shown(buckets)}."
        if type(farthest) is not int or farthest <= buckets // 4:
            return f"relative_attention_max_distance is {shown(farthest)}."
    return _wrong_labels(parts, len(parts.arrays[family.vectors["classifier_weight"]]), family)


def _wrong_labels(parts: "PackedParts", outputs: int, family: Family) -> str | None:
    config, names = parts.config, parts.record.labels
    bias = len(parts.arrays[family.vectors["classifier_bias"]])
    told = config.get("id2label")
    if not isinstance(told, dict) or sorted(map(str, told)) != sorted(map(str, range(outputs))) or bias != outputs:
        return f"id2label does not name the {outputs} outputs of the classifier."
    if names is not None and names != [told[key] for key in sorted(told, key=int)]:
        return "the labels of the record differ from id2label."
    problem = config.get("problem_type")
    several = problem == "multi_label_classification"
    known = several or problem in (None, "regression", "single_label_classification")
    if not known or (problem == "regression" and outputs != 1) or (several and outputs == 1):
        return f"problem_type is {shown(problem)}, but the classifier has {outputs} outputs."
    threshold = config.get("threshold") if several else None
    if parts.record.kind == "packed" and (parts.record.threshold != threshold or (threshold is None) == several):
        return f"the record has the threshold {parts.record.threshold}, but the configuration {shown(threshold)}."
    if parts.record.kind == "packed" and (names is None) != (outputs == 1):
        return f"the record has {'no labels' if names is None else 'labels'}, but the classifier has {outputs} outputs."
    return None


def _wrong_record(parts: "PackedParts", family: Family) -> str | None:
    record = parts.record
    if fault := _wrong_levels(parts):
        return fault
    most = family.longest_row(parts.config)
    if record.max_length is not None and most is not None and record.max_length > most:
        return f"the record has rows of {record.max_length} tokens, but there are positions for {most}."
    return None


def _wrong_levels(parts: "PackedParts") -> str | None:
    quantization = parts.record.quantization
    if quantization is not None:
        told, levels = quantization.weights, quantization.levels
        if parts.shapes and not are_trits(levels):
            return f"the record has {told} weights, but the file has ternary weights."
        for name, weight in parts.coded.items():
            low, high = int(weight.levels.min()), int(weight.levels.max())
            if not min(levels) <= low <= high <= max(levels):
                return f"the record has {told} weights, but {name} has levels from {low} to {high}."
    return None


class _OverflowError(Exception):
    """A value that may leave the range of FP32; the message names the part."""


def _overflow(parts: "PackedParts", family: Family, sizes: Sizes) -> str | None:
    with np.errstate(all="ignore"):
        try:
            _Magnitudes(parts, family, sizes).walk()
        except (_OverflowError, OverflowError) as error:
            return f"values may leave the range of FP32 in {error}."
    return None


class _Magnitudes:
    """Upper bounds of the magnitudes in a forward pass, step by step."""

    def __init__(self, parts: "PackedParts", family: Family, sizes: Sizes) -> None:
        self._arrays, self._family, self._sizes = parts.arrays, family, sizes
        self._weights = {name: _largest(values) for name, values in parts.scales().items()}
        self._weights |= {name: weight.largest for name, weight in parts.coded.items()}
        quantization = parts.record.quantization
        clip = None if quantization is None else quantization.activation_clip
        self._clip = math.inf if clip is None else clip
        self._normalised_later = family.pre_norm

    def walk(self) -> None:
        """Computes the bounds from the embeddings to the logits.

        Raises:
            _OverflowError: the bound of a step is too close to the end of the range of FP32.
        """
        family, sizes, tables = self._family, self._sizes, self._family.vectors
        x = self._weight(f"{family.word_embedding}.weight")
        x += sum(self._dense(tables[name]) for name in ("positions", "types") if name in tables)
        if not self._normalised_later:
            x = self._norm(x, sizes.embedding, tables["embedding_gain"], tables["embedding_bias"])
        if sizes.embedding != sizes.hidden:
            x = self._linear(x, family.matrices["projection"], sizes.embedding)
        for number in range(sizes.layers):
            x = self._layer(x, family.layer(number))
        if "final_gain" in tables:
            x = 2**20 * self._norm(x, sizes.hidden, tables["final_gain"])
        if "pooler" in family.matrices:
            x = self._linear(x, family.matrices["pooler"], sizes.hidden)
        if "head_weight" in tables:
            x = self._product(x, tables["head_weight"], tables["head_bias"])
        self._product(x, tables["classifier_weight"], tables["classifier_bias"])

    def _layer(self, x: float, prefix: str) -> float:
        family, sizes, later = self._family, self._sizes, self._normalised_later
        vectors = {name: f"{prefix}{tensor}" for name, tensor in family.layer_vectors.items()}
        matrices = {name: f"{prefix}{module}" for name, module in family.layer_matrices.items()}

        def norm(values: float, part: str) -> float:
            return self._norm(values, sizes.hidden, vectors[f"{part}_gain"], vectors.get(f"{part}_bias"))

        read = norm(x, "attention") if later else x
        query, key, value = (self._linear(read, matrices[name], sizes.hidden) for name in ("query", "key", "value"))
        scores = sizes.head_size * query * key + (self._dense(family.relative) if family.relative else 0.0)
        self._within(scores, matrices["query"])
        attention = sizes.heads * sizes.head_size
        x += self._linear(_ROUNDED_UP * value, matrices["output"], attention)
        x = x if later else norm(x, "attention")
        read = norm(x, "output") if later else x
        inner = self._linear(read, matrices["up"], sizes.hidden)
        if "gate" in matrices:
            inner *= self._linear(read, matrices["gate"], sizes.hidden)
            self._within(inner, matrices["gate"])
        x += self._linear(inner, matrices["down"], sizes.inner)
        return x if later else norm(x, "output")

    def _linear(self, x: float, module: str, inputs: int) -> float:
        bias = f"{module}.bias"
        out = inputs * min(x, self._clip) * self._weight(f"{module}.weight")
        return self._within(out + (self._dense(bias) if bias in self._arrays else 0.0), module)

    def _product(self, x: float, weight: str, bias: str) -> float:
        return self._within(self._sizes.hidden * x * self._dense(weight) + self._dense(bias), weight)

    def _norm(self, x: float, width: int, gain: str, bias: str | None = None) -> float:
        self._within(width * x * x, gain)
        return self._within(math.sqrt(width) * self._dense(gain) + (0.0 if bias is None else self._dense(bias)), gain)

    def _weight(self, name: str) -> float:
        return self._weights[name] if name in self._weights else self._dense(name)

    def _dense(self, name: str) -> float:
        return _largest(self._arrays[name])

    def _within(self, value: float, where: str) -> float:
        if not value < _LARGEST:
            raise _OverflowError(where)
        return value


def _largest(values: NDArray[np.floating]) -> float:
    return float(np.abs(values).max(initial=0.0))
