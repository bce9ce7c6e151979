"""The speed of encoding and decoding levels, and their size: `python benchmarks/level_codecs.py`.

The levels are those of Gaussian weights: ternary (57.7 % are not 0), and uniform in buckets of 256. Rounds are
interleaved. Figures are medians of processor time, which other programs disturb less than elapsed time. A weight
counts as four bytes of FP32. There is one thread.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kdqat_cli.codecs.catalogue import CODECS, Levels
from kdqat_cli.native.library import library
from kdqat_cli.quantizers.codes import MATRIX, Grouping
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform


def levels_of(count: int) -> dict[str, Levels]:
    weight = torch.randn(count, generator=torch.Generator().manual_seed(0))
    ternary: Levels = (Ternary().codes(weight, MATRIX).levels + 1).numpy().view(np.uint8)
    uniform = {bits: Uniform(bits).codes(weight, Grouping("bucket", 256)).levels.numpy() for bits in (2, 4, 8)}
    return {"ternary": ternary} | {f"uniform, {bits} bits": levels for bits, levels in uniform.items()}


def measured(levels: Levels, trits: bool, rounds: int) -> dict[str, list[str]]:
    """Codec → bits per level, and MB of FP32 weights per second for encoding and decoding."""
    codecs = {name: codec for name, codec in CODECS.items() if name != "trits" or trits}
    streams = {name: codec.encode(levels) for name, codec in codecs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in codecs}
    for _ in range(rounds):
        for name, codec in codecs.items():
            start = time.process_time()
            codec.encode(levels)
            between = time.process_time()
            codec.decode(streams[name], levels.size)
            seconds[name].append((between - start, time.process_time() - between))
    rows = {}
    for name, times in seconds.items():
        rates = [4e-6 * levels.size / statistics.median(column) for column in zip(*times, strict=True)]
        rows[name] = [f"{8 * streams[name].size / levels.size:.3f}", *(f"{rate:,.0f}" for rate in rates)]
    return rows


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000_000, help="weights")
    options = parser.parse_args()
    table = Table("levels", "entropy", "codec", "bits", "encode, MB FP32/s", "decode, MB FP32/s", box=None)
    for kind, levels in levels_of(options.count).items():
        share = np.bincount(levels) / levels.size
        entropy = -float((share[share > 0] * np.log2(share[share > 0])).sum())
        for name, row in measured(levels, kind == "ternary", options.rounds).items():
            table.add_row(kind, f"{entropy:.3f}", name, *row)
    console = Console(width=100)
    console.print("native library" if library() else "numpy alone", f"{options.count / 1e6:.1f} million weights")
    console.print(table)


if __name__ == "__main__":
    main()
