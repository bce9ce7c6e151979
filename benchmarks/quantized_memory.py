"""Peak memory of a training step on quantised weights, beside the plain step of the same network.

    python benchmarks/quantized_memory.py

The unit is the size of the FP32 weights. Each network and method is measured in its own process, whose peak the system
reports (`ru_maxrss`). The process runs three steps of forward, backward and gradient descent with momentum, on few
rows, so that the weights need more memory than the activations. The plain step needs three units: weights, gradients
and momentum.
"""

import argparse
import multiprocessing
import os
import resource
from collections.abc import Callable
from typing import Any

import torch
from quantized_steps import METHODS, in_training
from rich.console import Console
from rich.table import Table

WORDS = 20_000


def images(model: Any) -> Callable[[], Any]:
    """The logits of two random images."""
    pictures = torch.randn(2, 3, 32, 32)
    return lambda: model(pictures).logits


def sentences(model: Any) -> Callable[[], Any]:
    """The logits of two random sentences of five words."""
    words = torch.randint(4, WORDS, (2, 5))
    return lambda: model(words, torch.tensor([5, 5]), words).logits


NETWORKS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Callable[[], Any]]]] = {
    "wide-28-10": ("image", {"image": (3, 32, 32), "num_labels": 10}, images),
    "conv-teacher": ("image", {"image": (3, 32, 32), "num_labels": 10}, images),
    "lstm-teacher": ("translation", {"source_words": WORDS, "target_words": WORDS}, sentences),
}


def measured(name: str, method: str) -> tuple[float, float]:
    """Bytes of the weights, and the peak of three steps minus the memory before the network was made."""
    torch.set_num_threads(1)
    reads, config, inputs_of = NETWORKS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model, optimizer = in_training(name, reads, method, **config)
    logits = inputs_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward([logits().square().mean()])
        optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 4.0 * sum(parameter.numel() for parameter in model.parameters()), 1024.0 * (peak - before)


def main() -> None:
    """Prints a row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # a freed tensor's memory is returned to the system
    table = Table("network", "weights, MB", *(f"{method}, copies" for method in METHODS), "qd - plain")
    for name in arguments.networks:
        copies, weights = {}, 0.0
        for method in METHODS:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                size, peak = pool.apply(measured, (name, method))
            weights = size if method == "plain" else weights
            copies[method] = peak / weights
        cells = [f"{copies[method]:.2f}" for method in METHODS]
        table.add_row(name, f"{weights / 1e6:.0f}", *cells, f"{copies['qd'] - copies['plain']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
