"""The machine of on_gpu.py: versions, processor, GPU. `--device cuda` ends with exit code 3 if there is no GPU."""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kdqat_cli.bench.machine import processor
from kdqat_cli.engine.gpu.layers import runs_triton
from kdqat_cli.engine.gpu.model import gpu
from kdqat_cli.errors import KdqatError
from kdqat_cli.native.library import kernel_here

PACKAGES = ("torch", "triton", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def main() -> None:
    """Writes the facts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": processor(),
        "cores": os.cpu_count(),
        "kernel": kernel_here(),
    }
    if options.device == "cuda":
        try:
            device = gpu()
        except KdqatError as error:
            print(error.sentence, file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_mb": round(properties.total_memory / 1e6),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "triton_runs": runs_triton(device),
        }
    options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
