"""The time to quantise latent weights, beside one copy |w|, forward and backward: `python benchmarks/quantizers.py`.

The weights have the shapes of BERT-base (109 million with its embeddings). Rounds are interleaved; a ratio compares
two medians of one run, or the two fastest rounds, which other programs disturb less. Times of one thread are
processor time, for the same reason. The forward pass computes ŵ from w, the backward pass ∂L/∂w from ∂L/∂ŵ.
`straightforward` is a simple implementation of the formula of Polino et al., in buckets of 256, with autograd.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kdqat_cli.quantizers.codes import MATRIX, Grouping
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform
from kdqat_cli.quantizers.weights import StraightThrough

BUCKET = Grouping("bucket", 256)
SHAPES = [(30522, 768), (512, 768), *[shape for _ in range(12) for shape in [(768, 768)] * 4 + [(3072, 768)] * 2]]


def absolute(weight: Tensor) -> Tensor:
    return weight.abs()


def straightforward(weight: Tensor, bits: int = 4, bucket: int = 256) -> Tensor:
    flat, steps = weight.reshape(-1), 2**bits - 1
    short = -flat.numel() % bucket
    rows = torch.cat([flat, flat[-1:].expand(short)]).view(-1, bucket)
    with torch.no_grad():
        low = rows.min(1, keepdim=True).values
        alpha = rows.max(1, keepdim=True).values - low
        alpha = torch.where(alpha < 1e-10, torch.ones_like(alpha), alpha)
        rounded = alpha * torch.round(steps * (rows - low) / alpha) / steps + low
        rounded = rounded.view(-1)[: flat.numel()].view_as(weight)
    out: Tensor = weight + (rounded - weight).detach()
    return out


def uniform(bits: int, **settings: object) -> Callable[[Tensor], Tensor]:
    gradient = settings.pop("gradient", "plain")
    quantizer = Uniform(bits, **settings)  # type: ignore[arg-type]
    through = StraightThrough(quantizer, None, gradient)  # type: ignore[arg-type]
    return lambda weight: through(weight, quantizer.grouping)


def ternary(weight: Tensor) -> Tensor:
    return StraightThrough(Ternary(), None)(weight, MATRIX)


JOBS: dict[str, Callable[[Tensor], Tensor]] = {
    "copy and abs": absolute,
    "uniform, 4 bits": uniform(4),
    "uniform, 8 bits": uniform(8),
    "uniform, 4 bits, no buckets": uniform(4, bucket=None),
    "uniform, 4 bits, stochastic": uniform(4, rounding="stochastic"),
    "uniform, 4 bits, complicated": uniform(4, gradient="complicated"),
    "ternary": ternary,
    "straightforward, 4 bits": straightforward,
}


def pass_over(job: Callable[[Tensor], Tensor], weights: list[Tensor], upstream: list[Tensor]) -> None:
    for weight, grad in zip(weights, upstream, strict=True):
        torch.autograd.grad(job(weight), weight, grad)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    weights = [(0.04 * torch.randn(shape)).requires_grad_() for shape in SHAPES]
    upstream = [torch.randn(shape) for shape in SHAPES]
    seconds: dict[str, list[float]] = {job: [] for job in JOBS}
    for number in range(options.rounds + 1):
        for name, job in JOBS.items():
            start = clock()
            pass_over(job, weights, upstream)
            if number:  # the first round warms up
                seconds[name].append(clock() - start)
    table = Table("job", "ms", "min to max", "times copy and abs", "of the fastest rounds", box=None)
    base = seconds["copy and abs"]
    for name, times in seconds.items():
        median, spread = statistics.median(times), f"{1000 * min(times):.0f} to {1000 * max(times):.0f}"
        ratios = (median / statistics.median(base), min(times) / min(base))
        table.add_row(name, f"{1000 * median:.0f}", spread, *(f"{ratio:.2f}" for ratio in ratios))
    count = sum(weight.numel() for weight in weights)
    console = Console(width=100)
    console.print(f"torch {torch.__version__}, {options.threads} threads, {count / 1e6:.1f} million weights")
    console.print(table)


if __name__ == "__main__":
    main()
