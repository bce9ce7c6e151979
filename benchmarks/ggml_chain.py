"""A chain of matrix products in ggml, by its C interface: llama.cpp's TQ2_0, or ik_llama.cpp's IQ2_BN."""

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdqat_cli.exporters.gguf_file import encode
from kdqat_cli.exporters.weights import Ternary

Codes = NDArray[np.int8]

_F32, _TQ2_0, _IQ2_BN = 0, 35, 135  # enum ggml_type
_IQ2_BN_BLOCK = 64
_SLACK = 1 << 20  # bytes for ggml's own records


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]  # noqa: RUF012


class _Plan(ctypes.Structure):
    """What ggml_graph_plan returns; both libraries begin like this, and end differently."""

    _fields_ = [("work_size", c_size_t), ("work_data", c_void_p), ("threads", c_int), ("rest", c_void_p * 8)]  # noqa: RUF012


def llama_folder() -> Path | None:
    """Where llama-cpp-python keeps ggml's libraries, if it is installed; the variable LLAMA_CPP_LIB_PATH wins."""
