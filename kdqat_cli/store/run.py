"""What is written beside every result: where it comes from, and how long it took."""

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kdqat_cli import group
from kdqat_cli.native.library import kernel_here
from kdqat_cli.store.folder import RUN
from kdqat_cli.store.writing import write_json


def versions() -> dict[str, str]:
    """Versions of what a result depends on besides its inputs."""
    names = ("kdqat", "torch", "transformers", "tokenizers", "datasets")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return round(time.perf_counter() - self._start, 2)


def write_run(folder: Path, watch: Stopwatch, **figures: Any) -> dict[str, Any]:
    """Writes run.json: seconds, device, how many of them, threads of each, the engine's kernel, and what was measured.

    On a GPU also `gpu_memory_mb`: what torch allocated there at most, in this process, 10^6 bytes.
    It stands apart from the model, whose bytes depend on its inputs alone.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    run = {"seconds": watch.seconds, "device": device, "devices": group.size(), "threads": torch.get_num_threads()}
    run |= {"kernel": kernel_here()} | figures
    if torch.cuda.is_available():
        run["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    write_json(folder / RUN, run)
    return run
