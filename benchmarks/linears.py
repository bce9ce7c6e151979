"""Chains of ternary linears against torch FP32 and ONNX Runtime's dynamic int8: `python benchmarks/linears.py --help`.

Two chains as in BERT-base: 768 → 768 twelve times, and 768 → 3072 → 768 three times. Activations are quantised in each
layer, and that is part of the time. Runs are interleaved; a ratio is of two runs of the same round.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from peers import Run, fast_kernels, paired, quantize, ratio, save_chain, session
from rich.console import Console
from rich.table import Table

from kdqat_cli.runtime.chain import Chain
from kdqat_cli.runtime.native import kernels
from kdqat_cli.stages.machine import processor

CHAINS = {"768→768 ×12": [(768, 768)] * 12, "768→3072→768 ×3": [(3072, 768), (768, 3072)] * 3}


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128], help="rows of activations")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of every engine")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine")
    parser.add_argument("--kernel", nargs="+", default=fast_kernels(), choices=kernels(), help="kernels of ours")
    options = parser.parse_args()
    console = Console(width=150)
    console.print(
        f"{processor()}; torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}; {options.rounds} rounds"
    )
    table = Table(
        "chain", "threads", "rows", "kernel", "µs", "G products/s a thread", "torch FP32", "ORT int8", box=None
    )
    for name, shapes in CHAINS.items():
        draw = np.random.default_rng(0)
        codes = [draw.integers(-1, 2, shape).astype(np.int8) for shape in shapes]
        for threads in options.threads:
            for rows in options.rows:
                _measure(table, name, codes, threads, rows, options)
    console.print(table)
    console.print("torch and ORT: how many times our time they take, median (and the middle half) of the rounds")


def _measure(
    table: Table, name: str, codes: list[NDArray[np.int8]], threads: int, rows: int, options: argparse.Namespace
) -> None:
    scale = 0.05
    x = np.random.default_rng(1).standard_normal((rows, codes[0].shape[1])).astype(np.float32)
    weights = [code * np.float32(scale) for code in codes]
    torch.set_num_threads(threads)
    chains = {kernel: Chain(threads, kernel) for kernel in options.kernel}
    for chain in chains.values():
        for code in codes:
            chain.add(code, scale)
    tensors, values = [torch.from_numpy(weight) for weight in weights], torch.from_numpy(x)

    @torch.inference_mode()
    def by_torch() -> None:
        out = values
        for weight in tensors:
            out = torch.nn.functional.linear(out, weight)

    with tempfile.TemporaryDirectory() as folder:
        save_chain(weights, Path(folder) / "fp32.onnx")
        quantize(Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx")
        int8 = session(Path(folder) / "int8.onnx", threads)
        jobs: dict[str, Run] = {kernel: partial(chain, x) for kernel, chain in chains.items()}
        jobs |= {"torch": by_torch, "ort": lambda: int8.run(None, {"x": x})}
        for run in jobs.values():
            run()
        seconds = paired(jobs, options.rounds, 0.02)
    products = rows * sum(code.size for code in codes)
    for kernel in chains:
        median = statistics.median(seconds[kernel])
        ratios = [
            "{:.2f} ({:.2f} to {:.2f})".format(*ratio(seconds[peer], seconds[kernel])) for peer in ("torch", "ort")
        ]
        speed = products / median / threads / 1e9
        table.add_row(name, str(threads), str(rows), kernel, f"{median * 1e6:,.0f}", f"{speed:.0f}", *ratios)


if __name__ == "__main__":
    main()
