"""A chain of ternary linear layers in the native library, to test and measure kernels."""

import math

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.codecs.trits import pack
from kdqat_cli.native.library import call, chosen_kernel, library, pointer

ACTIVATIONS = {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "tanh": 4}
"""Name of an activation function → its number in the library (native/kernels.h)."""


class Chain:
    """Ternary linears, each on the quantised output of the linear before.

    Raises:
        ValueError: the library is missing, this CPU cannot run the kernel, or the number of threads is out of range.
    """

    def __init__(self, threads: int = 1, kernel: str | None = None) -> None:
        found = library()
        if found is None:
            raise ValueError("the native library is not installed")
        self._library = found
        self._handle = self._library.kdqat_chain_new((kernel or chosen_kernel()).encode(), threads)
        if not self._handle:
            raise ValueError(self._library.kdqat_error().decode())
        self._outputs = 0

    def add(
        self, codes: NDArray[np.int8], scale: float, bias: NDArray[np.float32] | None = None, activation: str = "none"
    ) -> None:
        """Appends a layer of codes (O, I) in {-1, 0, 1}, one scale, and a bias (O,).

        Raises:
            ValueError: the layer does not fit the layer before.
        """
        trits = pack(codes)
        outputs, inputs = codes.shape
        call("kdqat_chain_add", self._handle, trits, trits.size, outputs, inputs, scale, bias, ACTIVATIONS[activation])
        self._outputs = outputs

    def __call__(self, rows: NDArray[np.float32], clip: float = math.inf) -> NDArray[np.float32]:
        """(rows, I of the first layer) → (rows, O of the last)."""
        out = np.empty((len(rows), self._outputs), dtype=np.float32)
        call("kdqat_chain_run", self._handle, np.ascontiguousarray(rows), len(rows), clip, out)
        return out

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.kdqat_chain_free(self._handle)


def quantize(
    kernel: str, rows: NDArray[np.float32], clip: float = math.inf
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """Rows (M, K) → int8 values (M, K), scales (M,) and sums (M,), computed by one kernel."""
    values, scales = np.empty(rows.shape, dtype=np.int8), np.empty(len(rows), dtype=np.float32)
    sums = np.empty(len(rows), dtype=np.int32)
    call("kdqat_quantize", kernel.encode(), rows, len(rows), rows.shape[1], clip, values, scales, sums)
    return values, scales, sums


def activate(kernel: str, values: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """An activation function of `values` (N,), computed by one kernel."""
    out = np.empty_like(values)
    call("kdqat_activate", kernel.encode(), values, values.size, ACTIVATIONS[activation], out)
    return out


def attend(
    kernel: str,
    heads: tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]],
    scales: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    scaling: float,
    clip: float = math.inf,
    relative: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """One head of attention, computed by one kernel.

    Args:
        kernel: name of the kernel.
        heads: quantised Q, K and V, (L, D) each.
        scales: the scales of Q, K and V, (L,) each.
        scaling: factor of the scores.
        clip: upper limit of the probabilities.
        relative: (2L - 1,), added to the score of key j and query i at j - i + L - 1.

    Returns:
        The context (L, D).
    """
    length, size = heads[0].shape
    out = np.empty((length, size), dtype=np.float32)
    middle = None if relative is None else pointer(relative[length - 1 :])
    call("kdqat_attend", kernel.encode(), *heads, *scales, length, size, scaling, clip, middle, out)
    return out
