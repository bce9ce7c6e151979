"""The native library: whether it is there, which kernels run here, and its C interface (src/api.h) for ctypes."""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_float, c_int, c_int8, c_int32, c_int64, c_uint8, c_uint16, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import ConfigError

KERNEL_VARIABLE = "KDQAT_KERNEL"
TORCH = "torch"
"""The value of KDQAT_KERNEL, and the name of the kernel, that stands for torch."""
LIBRARY_VARIABLE = "KDQAT_LIBRARY"

_U8, _I8, _U16 = POINTER(c_uint8), POINTER(c_int8), POINTER(c_uint16)
_I32, _F32 = POINTER(c_int32), POINTER(c_float)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "kdqat_error": (c_char_p, []),
    "kdqat_kernels": (c_int, []),
    "kdqat_kernel": (c_char_p, [c_int]),
    "kdqat_vnni": (c_int, []),
    "kdqat_model_new": (c_void_p, [c_void_p, c_char_p, c_int]),
    "kdqat_model_threads": (c_int, [c_void_p]),
    "kdqat_model_words": (c_int, [c_void_p, _U8, c_int64, c_int, c_int, _F32]),
    "kdqat_model_matrix": (c_int, [c_void_p, c_int, c_int, _U8, c_int64, c_int, c_int, c_float, _F32]),
    "kdqat_model_vector": (c_int, [c_void_p, c_int, c_int, _F32, c_int64]),
    "kdqat_model_complete": (c_int, [c_void_p]),
    "kdqat_model_forward": (c_int, [c_void_p, _I32, _I32, _I32, _I32, c_int, _F32, c_int, _F32]),
    "kdqat_model_free": (None, [c_void_p]),
    "kdqat_chain_new": (c_void_p, [c_char_p, c_int]),
    "kdqat_chain_add": (c_int, [c_void_p, _U8, c_int64, c_int, c_int, c_float, _F32, c_int]),
    "kdqat_chain_run": (c_int, [c_void_p, _F32, c_int, c_float, _F32]),
    "kdqat_chain_free": (None, [c_void_p]),
    "kdqat_round": (c_int, [c_char_p, c_int, *[c_void_p] * 3, c_int, c_float, c_int, *[c_void_p] * 5]),
    "kdqat_divergence": (c_int, [c_char_p, c_int, *[c_void_p] * 4, *[c_int] * 3, c_float, c_float, c_void_p, c_void_p]),
    "kdqat_levels": (c_int, [c_char_p, c_int, c_void_p, c_int64, c_int64, c_int, c_float, *[c_void_p] * 3]),
    "kdqat_values": (c_int, [c_char_p, c_int, c_void_p, c_int, c_int64, c_int64, *[c_void_p] * 3]),
    "kdqat_drop": (c_int, [c_char_p, c_int, c_void_p, c_void_p, c_int64, c_int, c_float, c_void_p, c_void_p]),
    "kdqat_keep": (c_int, [c_char_p, c_int, c_void_p, c_void_p, c_int64, c_float, c_void_p]),
    "kdqat_huffman": (c_int, [_U8, c_int64, _U16, _U16, c_int64, c_int64, _U8]),
    "kdqat_quantize": (c_int, [c_char_p, _F32, c_int, c_int, c_float, _I8, _F32, _I32]),
    "kdqat_activate": (c_int, [c_char_p, _F32, c_int, c_int, _F32]),
    "kdqat_attend": (c_int, [c_char_p, _I8, _I8, _I8, _F32, _F32, _F32, c_int, c_int, c_float, c_float, _F32, _F32]),
}
_POINTERS: dict[str, Any] = {"u1": _U8, "i1": _I8, "u2": _U16, "i4": _I32, "f4": _F32}


@cache
def library() -> ctypes.CDLL | None:
    """The library beside this file, or the one that KDQAT_LIBRARY names; None where there is none that loads."""
    named = os.environ.get(LIBRARY_VARIABLE)
    found = [Path(named)] if named else sorted(Path(__file__).parent.glob("_native*.so"))
    for path in found:
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # built for another processor or another C library
            continue
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        return loaded
    return None


def kernels() -> list[str]:
    """The kernels that run on this processor, the fastest first; empty without the library."""
    lib = library()
    return [] if lib is None else [lib.kdqat_kernel(index).decode() for index in range(lib.kdqat_kernels())]


def chosen_kernel() -> str:
    """The kernel that is used: the fastest, or the one that the variable KDQAT_KERNEL names.

    Raises:
        ConfigError: the variable names a kernel that does not run here.
    """
    here = kernels()
    named = os.environ.get(KERNEL_VARIABLE)
    if named and named not in here:
        raise ConfigError(f"{KERNEL_VARIABLE} is {named!r}, but this processor has {', '.join(here) or 'no kernel'}.")
    return named or here[0]


def kernel_here() -> str:
    """What computes on this processor: the chosen kernel, or `torch` where that is chosen or no library was built.

    Raises:
        ConfigError: the variable names a kernel that does not run here.
    """
    named = os.environ.get(KERNEL_VARIABLE)
    return TORCH if named == TORCH or not (named or kernels()) else chosen_kernel()


def pointer(array: NDArray[Any] | None) -> Any:
    """A C-contiguous array's memory for a call; None: a null pointer. The array must outlive the call."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("an array must be contiguous to be handed over")
    return array.ctypes.data_as(_POINTERS[array.dtype.str[1:]])


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the library that answers 0 or -1; arrays are handed over as pointers.

    Raises:
        ValueError: what the library said.
    """
    lib = library()
    if lib is None:
        raise ValueError("the native library is not there")
    converted = [pointer(item) if isinstance(item, np.ndarray) else item for item in arguments]
    if getattr(lib, name)(*converted) != 0:
        raise ValueError(lib.kdqat_error().decode())
