"""A packed model in the native library: passes its parts to the library and calls the forward pass."""

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Sequence
from ctypes import c_float, c_int32
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdqat_cli.engine.chain import ACTIVATIONS
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.native.library import call, library
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.family import Family
from kdqat_cli.networks.parts import HEADS, MATRIX_NUMBERS, VECTOR_NUMBERS, native_sizes
from kdqat_cli.packing.packed_file import PackedParts
from kdqat_cli.packing.soundness import not_ternary
from kdqat_cli.record import Record

_INTEGERS = (
    *("hidden", "embedding", "layers", "heads", "head_size", "inner", "words", "labels", "positions", "types"),
    *("pre_norm", "gated", "head", "activation", "head_activation"),
)
_REALS = ("epsilon", "embedding_epsilon", "scaling", "clip")
_LARGEST_INTEGER = 2**31 - 1


class _Config(ctypes.Structure):
    _fields_ = [(name, c_int32) for name in _INTEGERS] + [(name, c_float) for name in _REALS]


class NativeModel:
    """A classifier in the native library; its weights stay packed at two bits.

    Raises:
        ConfigError: the engine does not support the model or its quantisation.
        MissingInputError: the parts of the file do not fit each other.
    """

    def __init__(self, file: PackedParts, kernel: str, threads: int) -> None:
        """Moves the arrays of `file` into the library; `file` is empty afterwards.

        Args:
            file: the parts of a packed file.
            kernel: the name of a kernel that this CPU can run.
            threads: number of threads, with the caller's thread; `self.threads` is smaller if the system cannot start
                so many.
        """
        _require_ternary(file)
        found = library()
        assert found is not None  # the caller's kernel is one of the library
        self._library = found
        self._handle: int | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._config = file.config
        self._family = configured(file.config)
        count = self._family.padding_position
        self._padding = None if count is None else count(file.config)
        clip = _activation_clip(file.record)
        self._relative = file.arrays.pop(self._family.relative, None) if self._family.relative else None
        try:
            config = _native_config(file, self._family, clip)
            self.labels, self.positions, self.types = config.labels, config.positions, config.types
            self._heads = config.heads
            self._handle = self._library.kdqat_model_new(ctypes.byref(config), kernel.encode(), threads)
            if not self._handle:
                raise ValueError(self._library.kdqat_error().decode())
            # Not at exit: another thread may still compute, and the process ends anyway.
            weakref.finalize(self, _free, self._library, self._handle, self._process).atexit = False
            self.threads: int = self._library.kdqat_model_threads(self._handle)
            self._fill(file, config.layers)
            call("kdqat_model_complete", self._handle)
            self._check_relative()
        except (ValueError, KeyError) as error:
            raise MissingInputError(f"The packed model does not fit its own configuration: {error}.") from error

    def _fill(self, file: PackedParts, layers: int) -> None:
        family, scales = self._family, file.scales()
        parts = [(-1, "", family.matrices, family.vectors)]
        parts += [(n, family.layer(n), family.layer_matrices, family.layer_vectors) for n in range(layers)]
        for number, prefix, matrices, vectors in parts:
            for which, module in matrices.items():
                name = f"{prefix}{module}.weight"
                if which == "projection" and name not in file.shapes:
                    continue  # an embedding of the hidden size has no projection
                rows, columns, count = file.shapes[name]
                if count != 1:
                    raise ValueError(f"{name} has {count} scales")
                bias = _take(file, f"{prefix}{module}.bias") if f"{prefix}{module}.bias" in file.arrays else None
                if bias is not None and bias.shape != (rows,):
                    raise ValueError(f"the bias of {name} has another size")
                trits = file.arrays.pop(name)
                size, scale = trits.size, float(scales[name][0])
                slot = MATRIX_NUMBERS[which]
                call("kdqat_model_matrix", self._handle, number, slot, trits, size, rows, columns, scale, bias)
            for which, module in vectors.items():
                values = _take(file, prefix + module)
                call("kdqat_model_vector", self._handle, number, VECTOR_NUMBERS[which], values, values.size)
        name = f"{family.word_embedding}.weight"
        rows, columns, count = file.shapes[name]
        if count != rows:
            raise ValueError(f"{name} has {count} scales")
        trits = file.arrays.pop(name)
        call("kdqat_model_words", self._handle, trits, trits.size, rows, columns, scales[name])
        file.arrays.pop("scales")
        if file.arrays:
            raise ValueError(f"{', '.join(sorted(file.arrays))} belongs to no part of this architecture")

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths.

        Raises:
            ValueError: there are no rows, a row is empty or too long, or a token id or type is out of range.
        """
        if not rows:
            raise ValueError("there are no rows")
        if os.getpid() != self._process:
            raise ValueError("a fork does not copy the threads of this engine: load it again in the new process")
        lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int32)
        if not lengths.all():
            raise ValueError("a sequence is empty")
        words = _end_to_end([ids for ids, _ in rows], "token ids")
        types = _end_to_end(
            [np.zeros(len(ids), dtype=np.int32) if kinds is None else kinds for ids, kinds in rows], "types"
        )
        if len(types) != len(words) or any(kinds is not None and len(kinds) != len(ids) for ids, kinds in rows):
            raise ValueError("a row must have as many token types as tokens")
        positions = np.concatenate([self._row_positions(ids) for ids, _ in rows]).astype(np.int32)
        span = int(lengths.max())
        relative = None if self._relative is None else self._relative_scores(span)
        out = np.empty((len(rows), self.labels), dtype=np.float32)
        with self._lock:
            call(
                "kdqat_model_forward",
                *(self._handle, words, types, positions, lengths, len(rows), relative, span, out),
            )
        return out

    def _row_positions(self, ids: Sequence[int]) -> NDArray[np.int64]:
        if self._padding is None:
            return np.arange(len(ids))
        # As in transformers (create_position_ids_from_input_ids), a padding token has the position of padding.
        real = np.asarray(ids) != self._padding
        positions: NDArray[np.int64] = np.cumsum(real) * real + self._padding
        return positions

    def _check_relative(self) -> None:
        if (self._relative is None) != (self._family.relative is None):
            raise ValueError("the table of relative positions is missing")
        if self._relative is not None:
            buckets = self._buckets()
            if self._relative.shape != (buckets, self._heads):
                raise ValueError("the table of relative positions has another size")
            self._relative = self._relative.astype(np.float32)
            self._relative_scores = lru_cache(maxsize=4)(self._compute_relative_scores)

    def _buckets(self) -> int:
        return int(self._config.get("relative_attention_num_buckets", 32))

    def _compute_relative_scores(self, span: int) -> NDArray[np.float32]:
        """What is added to a score, (heads, 2·span - 1), by the distance of the key from the query."""
        assert self._relative is not None
        farthest = int(self._config.get("relative_attention_max_distance", 128))
        buckets = relative_buckets(np.arange(1 - span, span), self._buckets(), farthest)
        return np.ascontiguousarray(self._relative[buckets].T)


def _require_ternary(file: PackedParts) -> None:
    if other := not_ternary(file):
        raise ConfigError(
            "The engine supports ternary weights with one scale per matrix, or per row in the word embedding; "
            f"{other} has other weights."
        )


def _free(found: ctypes.CDLL, handle: int, process: int) -> None:
    """Frees a model in the process that made it; a fork has no threads to end."""
    if os.getpid() == process:
        found.kdqat_model_free(handle)


def relative_buckets(distances: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """T5's buckets of relative positions (Raffel et al., 2020, section 2.1).

    Half of the buckets are for keys after the query. In each half, the first half of the buckets are for one distance
    each. The other buckets are for ranges that grow logarithmically up to `farthest`; all larger distances share the
    last bucket.

    Args:
        distances: key - query, of any shape.
        buckets: number of buckets.
        farthest: distance from which all share the last bucket.

    Returns:
        The bucket numbers, in the shape of `distances`.
    """
    half = buckets // 2
    exact = half // 2
    size = np.abs(distances)
    # In FP32, as in torch, so that a distance at the edge of two buckets gets the same bucket.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(farthest / exact))
    large = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int64), half - 1)
    out: NDArray[np.int64] = np.where(distances > 0, half, 0) + np.where(size < exact, size, large)
    return out


def _activation_clip(record: Record) -> float:
    if record.quantization is None:
        raise MissingInputError("The packed model does not say how it was quantised.", "kdqat export")
    if record.quantization.activations != "int8":
        raise ConfigError("The engine needs 8-bit activations, but those of this model are in full precision.")
    clip = record.quantization.activation_clip
    return math.inf if clip is None else clip


def _native_config(file: PackedParts, family: Family, clip: float) -> _Config:
    values, activation = native_sizes(family, file.config)
    values["head"], values["head_activation"] = HEADS[family.head], ACTIVATIONS[family.head_activation]
    values["activation"] = ACTIVATIONS[activation]
    values["words"] = file.shapes[f"{family.word_embedding}.weight"][0]
    for name, tensor in (("labels", "classifier_weight"), ("positions", "positions"), ("types", "types")):
        values[name] = len(file.arrays[family.vectors[tensor]]) if tensor in family.vectors else 0
    values["clip"] = clip
    if any(type(values.get(name, 0)) is not int or values.get(name, 0) > _LARGEST_INTEGER for name in _INTEGERS):
        raise ValueError(f"sizes must be integers up to {_LARGEST_INTEGER}")
    return _Config(**values)


def _take(file: PackedParts, name: str) -> NDArray[np.float32]:
    return np.ascontiguousarray(file.arrays.pop(name), dtype=np.float32)


def _end_to_end(parts: Sequence[ArrayLike], what: str) -> NDArray[np.int32]:
    joined = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
    if joined.size and (joined.dtype.kind not in "iu" or abs(int(joined.max())) > _LARGEST_INTEGER or joined.min() < 0):
        raise ValueError(f"{what} must be integers of at least 0")
    integers: NDArray[np.int32] = joined.astype(np.int32)
    return integers
