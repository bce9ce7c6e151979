"""Writes run.json beside every result: versions, machine and time."""

import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

from kdqat_cli import group
from kdqat_cli.native.library import kernel_here
from kdqat_cli.store.figures import Run
from kdqat_cli.store.folder import RUN
from kdqat_cli.store.writing import write_json


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("kdqat", "torch", "transformers", "tokenizers", "datasets")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


class Stopwatch:
    """Measures wall-clock seconds since its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return round(time.perf_counter() - self._start, 2)


def write_run(folder: Path, watch: Stopwatch, **figures: object) -> Run:
    """Writes run.json, outside the model folder, so that the bytes of the model depend only on its inputs.

    Args:
        folder: the folder for the file.
        watch: started with the stage.
        figures: measured values; `Run` has their names and types.
    """
    gpu = torch.cuda.is_available()
    machine = {
        "seconds": watch.seconds,
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "devices": group.size(),
        "threads": torch.get_num_threads(),
        "kernel": kernel_here(),
        "gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if gpu else None,
    }
    run = Run.model_validate(machine | figures)
    write_json(folder / RUN, run.to_json())
    return run
