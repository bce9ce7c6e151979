"""env: the environment of kdqat, for bug reports and as a check before a long run."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from kdqat_cli.bench.machine import processor
from kdqat_cli.config import Params
from kdqat_cli.errors import KdqatError
from kdqat_cli.files import size_of
from kdqat_cli.native.library import KERNEL_VARIABLE, LIBRARY_VARIABLE, kernel_here, kernels
from kdqat_cli.processors import allowed_processors, memory_limit, processor_limit, processors
from kdqat_cli.store.places import METRICS, PIPELINE, RUNS
from kdqat_cli.tasks.sources import ASSETS, DATA_DIR_VARIABLE, resolve_data_dir

_PACKAGES = (
    "kdqat",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "dvc",
    "ray",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "gguf",
    "llama-cpp-python",
    "compressed-tensors",
)
_FEATURES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "asimddp": "neon-dot",
}
"""Instruction sets of the kernels: the system's name → kdqat's name."""
_VARIABLES = (
    DATA_DIR_VARIABLE,
    KERNEL_VARIABLE,
    LIBRARY_VARIABLE,
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_HUB_OFFLINE",
    "TMPDIR",
)

Environment = dict[str, dict[str, Any]]
"""Section → name → value; None: missing."""


def env(params: Params) -> Environment:
    """Describes the environment of the commands in this folder.

    Args:
        params: the content of params.yaml.

    Returns:
        The sections `versions`, `processor`, `memory`, `gpu`, `caches`, `data` and `variables`. Sizes are in bytes.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "processor": _processor(),
        "memory": {"bytes": psutil.virtual_memory().total, "limit of the control group": memory_limit()},
        "gpu": _gpus(),
        "caches": _caches(),
        "data": _data(params),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import torch

    try:
        runs, fault = kernel_here(), None
    except KdqatError as error:
        runs, fault = None, error.sentence
    return {
        "name": processor(),
        "system": platform.platform(),
        "instruction sets": _instruction_sets(),
        "kernels": kernels(),
        "kernel that runs": runs or fault,
        "processors": allowed_processors(),
        "limit of the control group": processor_limit(),
        "threads of the engine": processors(),
        "threads of a training": torch.get_num_threads(),
    }


def _instruction_sets() -> list[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").partition(":")[2].split()
    return [ours for theirs, ours in _FEATURES.items() if theirs in flags]


def _gpus() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"count": 0, "CUDA of torch": torch.version.cuda}
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    named = {
        f"GPU {number}": f"{device.name}, {device.total_memory} bytes, capability {device.major}.{device.minor}"
        for number, device in enumerate(devices)
    }
    return {"count": len(devices), "CUDA of torch": torch.version.cuda, **named}


def _caches() -> dict[str, Any]:
    from datasets import config
    from huggingface_hub import constants

    places = {"model hub": Path(constants.HF_HUB_CACHE), "data sets": Path(config.HF_DATASETS_CACHE)}
    places |= {"DVC": Path(".dvc/cache")}
    return {name: _place(path) for name, path in places.items()}


def _data(params: Params) -> dict[str, Any]:
    data_dir = resolve_data_dir(None, params.data_dir)
    places = {"data folder": data_dir, "fetched": ASSETS, "results": RUNS, "measurements": METRICS}
    found: dict[str, Any] = {name: _place(path) for name, path in places.items()}
    found["pipeline"] = _place(PIPELINE)
    return found | {"working folder": str(Path.cwd()), "bytes free": shutil.disk_usage(Path.cwd()).free}


def _place(path: Path | None) -> dict[str, Any] | None:
    """A path and its size in bytes; None: the path does not exist."""
    if path is None or not path.exists():
        return None
    return {"path": str(path), "bytes": size_of(path)}
