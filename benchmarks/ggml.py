"""Calls ggml's libraries: those of llama.cpp in llama-cpp-python, and those of ik_llama.cpp in its build folder.

llama-cpp-python compiles them for the present processor. For `--as-avx2` they must not use AVX-512. They are then made
by `CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --no-deps --target FOLDER llama-cpp-python`, and llama-cpp-python finds
them by its variable LLAMA_CPP_LIB_PATH=FOLDER/llama_cpp/lib. ik_llama.cpp is on no package index; it is compiled by

    cmake -S ik_llama.cpp -B BUILD -DCMAKE_BUILD_TYPE=Release
    cmake --build BUILD --target llama

and for `--as-avx2` with -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON.
"""

import ctypes
import os
from ctypes import POINTER, c_bool, c_float, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from avx2_machine import hidden
from numpy.typing import NDArray

from kdqat_cli.errors import ConfigError, MissingInputError

_VARIABLE = "LLAMA_CPP_LIB_PATH"
_F32, TQ2_0, IQ2_BN = 0, 35, 135  # enum ggml_type
_BLOCK = 64  # codes per block of IQ2_BN
_RECORDS = 1 << 20  # bytes for ggml's own records of tensors and graph


class _Memory(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = [("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool)]


class _Plan(ctypes.Structure):
    """The common first fields of ggml_cplan in both libraries; the libraries fill the rest."""

    _fields_ = [("work_size", c_size_t), ("work", c_void_p), ("threads", c_int), ("rest", c_void_p * 8)]


_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [_Memory]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_graph_plan": (_Plan, [c_void_p, c_int, c_void_p]),
    "ggml_graph_compute": (c_int, [c_void_p, POINTER(_Plan)]),
    "ggml_cpu_has_avx512": (c_int, []),
}


class Ggml:
    """The functions of ggml, each from the library that has it."""

    def __init__(self, name: str, paths: list[Path]) -> None:
        """Loads the libraries, in the order of their dependencies.

        Raises:
            ConfigError: a library does not load, or was compiled for instruction sets that this run hides.
        """
        try:
            libraries = [ctypes.CDLL(str(path)) for path in paths]
        except OSError as error:
            raise ConfigError(f"The libraries of {name} do not load: {error}") from error
        self._functions = {}
        for function, (result, arguments) in _PROTOTYPES.items():
            found = next(getattr(library, function) for library in libraries if hasattr(library, function))
            found.restype, found.argtypes = result, arguments
            self._functions[function] = found
        if hidden() and self("ggml_cpu_has_avx512"):
            raise ConfigError(f"{name} was compiled for AVX-512, which is hidden here; see benchmarks/ggml.py.")

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a function."""
        return self._functions[name](*arguments)


def llama_cpp() -> Ggml:
    """The ggml of llama.cpp.

    Raises:
        ConfigError: see `Ggml`.
        MissingInputError: llama-cpp-python is not installed.
    """
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise MissingInputError("llama.cpp is not installed.", "pip install gguf llama-cpp-python")
    folder = Path(os.environ.get(_VARIABLE) or Path(found.origin).parent / "lib")
    return Ggml("llama.cpp", [folder / "libggml-base.so", folder / "libggml-cpu.so"])


def ik_llama_cpp(build: Path | None) -> Ggml:
    """The ggml of ik_llama.cpp.

    Raises:
        ConfigError: see `Ggml`.
        MissingInputError: its build folder is not given.
    """
    if build is None:
        raise MissingInputError("ik_llama.cpp must be compiled first; see benchmarks/ggml.py.", "--ik-llama BUILD")
    return Ggml("ik_llama.cpp", [build / "ggml/src/libggml.so"])


class GgmlChain:
    """x · Wᵀ with one matrix after another, for an input in fixed memory."""

    def __init__(
        self, ggml: Ggml, kind: int, codes: list[NDArray[np.int8]], scale: float, x: NDArray[np.float32], threads: int
    ) -> None:
        """Builds the graph.

        Args:
            ggml: the functions.
            kind: TQ2_0 or IQ2_BN.
            codes: (O, I) of each matrix.
            scale: scale of all matrices.
            x: (rows, I) FP32.
            threads: number of threads.
        """
        self._ggml = ggml
        blocks = [_tq2_0(code, scale) if kind == TQ2_0 else _iq2_bn(code, scale) for code in codes]
        activations = len(x) * (x.shape[1] + sum(len(code) for code in codes)) * x.itemsize
        size = _RECORDS + sum(block.nbytes for block in blocks) + activations
        self._context = ggml("ggml_init", _Memory(size, None, False))
        out = self._tensor(_F32, x)
        for code, block in zip(codes, blocks, strict=True):
            weight = self._tensor(kind, block, code.shape)
            out = ggml("ggml_mul_mat", self._context, weight, out)
        values = ctypes.cast(ggml("ggml_get_data", out), POINTER(c_float))
        self._output: NDArray[np.float32] = np.ctypeslib.as_array(values, (len(x), len(codes[-1])))
        self._graph = ggml("ggml_new_graph", self._context)
        ggml("ggml_build_forward_expand", self._graph, out)
        self._plan = ggml("ggml_graph_plan", self._graph, threads, None)
        self._work = ctypes.create_string_buffer(max(1, self._plan.work_size))
        self._plan.work = ctypes.addressof(self._work)

    def run(self) -> NDArray[np.float32]:
        """Computes the chain: (rows, O), in ggml's memory, until `close`."""
        if self._ggml("ggml_graph_compute", self._graph, ctypes.byref(self._plan)):
            raise RuntimeError("ggml does not compute the chain")
        return self._output

    def close(self) -> None:
        """Frees the graph."""
        self._ggml("ggml_free", self._context)

    def _tensor(self, kind: int, values: NDArray[Any], shape: tuple[int, ...] | None = None) -> Any:
        rows, columns = shape or values.shape
        tensor = self._ggml("ggml_new_tensor_2d", self._context, kind, columns, rows)
        if self._ggml("ggml_nbytes", tensor) != values.nbytes:
            raise RuntimeError("ggml has another layout of this type")
        ctypes.memmove(self._ggml("ggml_get_data", tensor), values.tobytes(), values.nbytes)
        return tensor


def _tq2_0(codes: NDArray[np.int8], scale: float) -> NDArray[np.uint8]:
    import torch

    from kdqat_cli.exporters.gguf_file import encode
    from kdqat_cli.quantizers.codes import MATRIX, Codes

    return encode(Codes(torch.from_numpy(codes), torch.tensor([scale]), MATRIX), "TQ2_0", "a matrix")[1]


def _iq2_bn(codes: NDArray[np.int8], scale: float) -> NDArray[np.uint8]:
    """A row is an FP32 scale, then 16 bytes per block: byte j holds code + 1 of the block's codes j + 0, 16, 32, 48."""
    digits = (codes + 1).astype(np.uint8).reshape(len(codes), -1, 4, _BLOCK // 4)
    packed = digits[:, :, 0] | digits[:, :, 1] << 2 | digits[:, :, 2] << 4 | digits[:, :, 3] << 6
    scales = np.full((len(codes), 1), scale, np.float32).view(np.uint8)
    return np.concatenate([scales, packed.reshape(len(codes), -1)], axis=1)
