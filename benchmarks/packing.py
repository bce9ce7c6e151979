"""The speed of packing and loading a BERT-base, beside safetensors in FP32: `python benchmarks/packing.py`.

Rounds are interleaved, and figures are medians of five rounds. The unit is MB of FP32 weights per second.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import kdqat_cli  # noqa: F401 - registers the packed format
from kdqat_cli.config import Params
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.params import resolve
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record

ROUNDS = 5


def main() -> None:
    """Measures, and prints the table."""
    settings = resolve("movie", Params()).quantization
    model = BertForSequenceClassification(BertConfig()).eval()
    quantize_model(model, settings)
    freeze(model)
    megabytes = 4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = folder / "model.safetensors"
        jobs: dict[str, Callable[[], object]] = {
            "write packed": lambda: save_packed(model, folder, Record(quantization=settings)),
            "write FP32 (safetensors)": lambda: save_file(state, dense),
            "read packed to FP32 tensors": lambda: PackedCheckpoint(folder / FILE_NAME).state_dict(),
            "read FP32 (safetensors)": lambda: {name: tensor.clone() for name, tensor in load_file(dense).items()},
            "from_pretrained, packed": lambda: AutoModelForSequenceClassification.from_pretrained(folder),
        }
        seconds: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(ROUNDS):
            for job, run in jobs.items():
                start = time.perf_counter()
                run()
                seconds[job].append(time.perf_counter() - start)
        sizes = [(path.name, path.stat().st_size / 1e6) for path in (dense, folder / FILE_NAME)]
    table = Table("job", "seconds", "min to max", "MB FP32 per second", box=None)
    for job, times in seconds.items():
        median = statistics.median(times)
        table.add_row(job, f"{median:.3f}", f"{min(times):.3f} to {max(times):.3f}", f"{megabytes / median:,.0f}")
    console = Console(width=100)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {megabytes:.1f} MB of FP32 weights")
    console.print(", ".join(f"{name} {size:.2f} MB" for name, size in sizes))
    console.print(table)


if __name__ == "__main__":
    main()
