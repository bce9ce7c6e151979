"""Time of a training step on quantised weights, beside the plain step of the same network.

    python benchmarks/quantized_steps.py

`qd` quantises every matrix to 4 bits in buckets of 256 at each step. `dq` trains 16 points per matrix. A step is
forward, backward and optimiser, on random images. Rounds are interleaved; a ratio compares two medians of one run.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kdqat_cli.config import Params, Quantization
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import resolve
from kdqat_cli.quantizers.learned import learn_points

NETWORKS = {"conv-student-2": 25, "conv-student-1": 25, "wide-16-4": 16}
"""Network → images per batch."""
METHODS = ("plain", "qd", "dq")


def in_training(name: str, reads: str, method: str, **config: Any) -> tuple[Any, torch.optim.Optimizer]:
    """A network prepared for a method, and its optimiser."""
    model: Any = new_network(name, reads, **config).train()
    settings: Quantization = resolve(name, Params(recipe="polino"), kind=reads).quantization
    if method == "dq":
        settings = settings.model_copy(update={"weights": "points"})
    if method != "plain":
        quantize_model(model, settings)
    if method == "dq":
        learn_points(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.SGD(trained, 1e-4, momentum=0.9, nesterov=True)


def step_of(name: str, rows: int, method: str) -> Callable[[], None]:
    """A function that makes one training step of a new network."""
    torch.manual_seed(0)
    model, optimizer = in_training(name, "image", method, image=(3, 32, 32), num_labels=10)
    images, labels = torch.randn(rows, 3, 32, 32), torch.randint(10, (rows,))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()

    return step


def main() -> None:
    """Prints a row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("network", "images", "plain, ms", "qd / plain", "dq / plain")
    for name, rows in NETWORKS.items():
        steps = {method: step_of(name, rows, method) for method in METHODS}
        seconds: dict[str, list[float]] = {method: [] for method in METHODS}
        for number in range(arguments.rounds + 2):
            for method, step in steps.items():
                start = time.perf_counter()
                step()
                if number > 1:  # the first two rounds warm up
                    seconds[method].append(time.perf_counter() - start)
        median = {method: statistics.median(times) for method, times in seconds.items()}
        ratios = [f"{median[method] / median['plain']:.2f}" for method in METHODS[1:]]
        table.add_row(name, str(rows), f"{1e3 * median['plain']:.0f}", *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
