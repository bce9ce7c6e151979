"""Chains of ternary linear layers beside torch, ONNX Runtime and ggml: `python benchmarks/linears.py --help`.

Two chains as in BERT-base: 768 → 768 twelve times, and 768 → 3072 → 768 three times. The time includes the quantisation
of activations in each layer. Runs are interleaved; a ratio compares two runs of the same round. The other engines are
torch FP32, ONNX Runtime's dynamic int8, ggml's TQ2_0 in llama-cpp-python, and ik_llama.cpp's IQ2_BN (benchmarks/ggml.py
shows how to compile them). The output of each engine is first compared with torch's.
"""

import argparse
import statistics
import tempfile
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import avx2_machine
import ggml
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from peers import Run, fast_kernels, paired, quantize, ratio, save_chain, session
from rich.console import Console
from rich.table import Table

from kdqat_cli.engine.chain import Chain
from kdqat_cli.errors import KdqatError
from kdqat_cli.native.library import kernels

CHAINS = {"768→768 ×12": [(768, 768)] * 12, "768→3072→768 ×3": [(3072, 768), (768, 3072)] * 3}
SCALE = 0.05
FARTHEST = 0.1  # relative to torch's output; with 8-bit activations in twelve layers the difference is 0.02 to 0.03

Libraries = dict[str, tuple[ggml.Ggml, int]]
"""Name → ggml's functions, and the type of the matrices."""


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128], help="rows of activations")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="number of threads of every engine")
    parser.add_argument("--rounds", type=int, default=15, help="number of turns of each engine")
    parser.add_argument("--kernel", nargs="+", default=fast_kernels(), choices=kernels(), help="kernels of kdqat")
    parser.add_argument("--ik-llama", metavar="BUILD", type=Path, help="build folder of ik_llama.cpp")
    options = avx2_machine.parse(parser)
    console = Console(width=170)
    libraries = _libraries(options.ik_llama, console)
    versions = f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    console.print(f"{avx2_machine.machine()}; {versions}; {options.rounds} rounds")
    peers = ["torch FP32", "ORT int8", *libraries]
    table = Table("chain", "threads", "rows", "kernel", "µs", "G products/s per thread", *peers, box=None)
    for name, shapes in CHAINS.items():
        draw = np.random.default_rng(0)
        codes = [draw.integers(-1, 2, shape).astype(np.int8) for shape in shapes]
        for threads in options.threads:
            for rows in options.rows:
                with ExitStack() as stack:
                    jobs = _jobs(codes, threads, rows, options.kernel, libraries, stack)
                    seconds = paired(jobs, options.rounds, 0.02)
                products = rows * sum(code.size for code in codes)
                for kernel in options.kernel:
                    median = statistics.median(seconds[kernel])
                    ratios = ["{:.2f} ({:.2f} to {:.2f})".format(*ratio(seconds[x], seconds[kernel])) for x in peers]
                    speed = f"{products / median / threads / 1e9:.0f}"
                    table.add_row(name, str(threads), str(rows), kernel, f"{median * 1e6:,.0f}", speed, *ratios)
    console.print(table)
    console.print("peers: time relative to kdqat, median (and the middle half) of the rounds")


def _libraries(ik_llama: Path | None, console: Console) -> Libraries:
    found: Libraries = {}
    for name, load, kind in (
        ("ggml TQ2_0", ggml.llama_cpp, ggml.TQ2_0),
        ("ik IQ2_BN", partial(ggml.ik_llama_cpp, ik_llama), ggml.IQ2_BN),
    ):
        try:
            found[name] = load(), kind
        except KdqatError as error:
            console.print(f"{name} is left out: {error.sentence}" + (f" ({error.fix})" if error.fix else ""))
    return found


def _jobs(
    codes: list[NDArray[np.int8]],
    threads: int,
    rows: int,
    ours: list[str],
    libraries: Libraries,
    stack: ExitStack,
) -> dict[str, Run]:
    """Name → a function that runs the chain. Each is run once and compared; `stack` closes their resources."""
    x = np.random.default_rng(1).standard_normal((rows, codes[0].shape[1])).astype(np.float32)
    weights = [code * np.float32(SCALE) for code in codes]
    torch.set_num_threads(threads)
    chains = {kernel: Chain(threads, kernel) for kernel in ours}
    for chain in chains.values():
        for code in codes:
            chain.add(code, SCALE)
    tensors, values = [torch.from_numpy(weight) for weight in weights], torch.from_numpy(x)

    @torch.inference_mode()
    def by_torch() -> torch.Tensor:
        out = values
        for weight in tensors:
            out = torch.nn.functional.linear(out, weight)
        return out

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    save_chain(weights, folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "int8.onnx")
    int8 = session(folder / "int8.onnx", threads)
    jobs: dict[str, Run] = {kernel: partial(chain, x) for kernel, chain in chains.items()}
    jobs |= {"torch FP32": by_torch, "ORT int8": lambda: int8.run(None, {"x": x})[0]}
    for name, (library, kind) in libraries.items():
        jobs[name] = stack.enter_context(closing(ggml.GgmlChain(library, kind, codes, SCALE, x, threads))).run
    exact = by_torch().numpy()
    for name, run in jobs.items():
        off = np.linalg.norm(np.asarray(run()) - exact) / np.linalg.norm(exact)
        if not off <= FARTHEST:
            raise SystemExit(f"{name} differs from torch's output by {off:.2f} of it, so it computes something else.")
    return jobs


if __name__ == "__main__":
    main()
