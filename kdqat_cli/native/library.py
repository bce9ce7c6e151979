"""The native library: whether it is installed, which kernels this CPU can run, and its C interface (src/api.h)."""

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
"""The value of KDQAT_KERNEL that chooses torch instead of the library."""
PORTABLE = "portable"
"""The kernel without instructions of a certain processor."""
LIBRARY_VARIABLE = "KDQAT_LIBRARY"

_U8, _I8, _U16 = POINTER(c_uint8), POINTER(c_int8), POINTER(c_uint16)
_I32, _F32 = POINTER(c_int32), POINTER(c_float)
_PROTOTYPES: dict[str, tuple[type | None, list[type]]] = {
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
    "kdqat_product": (
        c_int,
        [c_char_p, c_int, *[c_void_p] * 2, *[c_int] * 2, c_void_p, c_int, c_float, *[c_void_p] * 2],
    ),
    "kdqat_divergence": (c_int, [c_char_p, c_int, *[c_void_p] * 4, *[c_int] * 3, c_float, c_float, c_void_p, c_void_p]),
    "kdqat_levels": (c_int, [c_char_p, c_int, c_void_p, c_int64, c_int64, c_int, c_float, *[c_void_p] * 4]),
    "kdqat_range_gradient": (c_int, [c_char_p, c_int, *[c_void_p] * 3, c_int64, c_int64, c_float, c_void_p]),
    "kdqat_values": (c_int, [c_char_p, c_int, c_void_p, c_int, c_int64, c_int64, *[c_void_p] * 3]),
    "kdqat_drop": (c_int, [c_char_p, c_int, c_void_p, c_void_p, c_int64, c_int, c_float, c_void_p, c_void_p]),
    "kdqat_keep": (c_int, [c_char_p, c_int, c_void_p, c_void_p, c_int64, c_float, c_void_p]),
    "kdqat_huffman": (c_int, [_U8, c_int64, _U16, _U16, c_int64, c_int64, _U8]),
    "kdqat_huffman_encode": (c_int, [_U8, c_int64, c_int64, _U16, _U16, _U8, c_int64]),
    "kdqat_quantize": (c_int, [c_char_p, _F32, c_int, c_int, c_float, _I8, _F32, _I32]),
    "kdqat_activate": (c_int, [c_char_p, _F32, c_int, c_int, _F32]),
    "kdqat_attend": (c_int, [c_char_p, _I8, _I8, _I8, _F32, _F32, _F32, c_int, c_int, c_float, c_float, _F32, _F32]),
}
_POINTERS: "dict[str, type[ctypes._Pointer[Any]]]" = {"u1": _U8, "i1": _I8, "u2": _U16, "i4": _I32, "f4": _F32}


@cache
def library() -> ctypes.CDLL | None:
    """The library beside this file, or the library that KDQAT_LIBRARY names; None if none can be loaded."""
    named = os.environ.get(LIBRARY_VARIABLE)
    found = [Path(named)] if named else sorted(Path(__file__).parent.glob("_native*.so"))
    for path in found:
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # built for another CPU or another C library
            continue
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        return loaded
    return None


def kernels() -> list[str]:
    """The kernels that this CPU can run, the fastest first; empty without the library."""
    lib = library()
    return [] if lib is None else [lib.kdqat_kernel(index).decode() for index in range(lib.kdqat_kernels())]


def chosen_kernel() -> str:
    """The fastest kernel, or the kernel that KDQAT_KERNEL names.

    Raises:
        ConfigError: KDQAT_KERNEL names a kernel that this CPU cannot run.
    """
    here = kernels()
    named = os.environ.get(KERNEL_VARIABLE)
    if named and named not in here:
        raise ConfigError(
            f"{KERNEL_VARIABLE} is {named!r}, but this processor has {', '.join(here) or 'no kernel'}.",
            f"unset {KERNEL_VARIABLE}",
        )
    return named or here[0]


def kernel_here() -> str:
    """The kernel that computes on this CPU: the chosen one, or `torch` if that is chosen or the library is missing.

    Raises:
        ConfigError: KDQAT_KERNEL names a kernel that this CPU cannot run.
    """
    named = os.environ.get(KERNEL_VARIABLE)
    return TORCH if named == TORCH or not (named or kernels()) else chosen_kernel()


def pointer(array: NDArray[np.generic] | None) -> object:
    """The pointer to a C-contiguous array for a call; None: a null pointer. The array must outlive the call.

    Raises:
        ValueError: the array is not C-contiguous.
    """
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the native library takes contiguous arrays only")
    return array.ctypes.data_as(_POINTERS[array.dtype.str[1:]])


def call(name: str, *arguments: object) -> None:
    """Calls a function of the library that returns 0 or -1; an array is passed as a pointer.

    Raises:
        ValueError: the error message of the library.
    """
    lib = library()
    if lib is None:
        raise ValueError("the native library is not installed")
    converted = [pointer(item) if isinstance(item, np.ndarray) else item for item in arguments]
    if getattr(lib, name)(*converted) != 0:
        raise ValueError(lib.kdqat_error().decode())
