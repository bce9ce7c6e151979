"""The ranking loss of one sentence beside the double loop over pairs of keys: `python benchmarks/ranking.py`.

The maps are computed from random scores with the shape of BERT-base: 12 layers of 12 heads. The loop follows the
formula (Eq. 9 of Kim et al., EMNLP 2022), in Python over the values of one query. It is timed on some of the queries,
and its time for all of them is extrapolated. Rounds are interleaved; the ratio is the median of the rounds.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from kdqat_cli.analysis.layers import attention_maps, ranking_loss

LAYERS, HEADS = 12, 12


def by_pairs(model: list[float], teacher: list[float]) -> float:
    total = 0.0
    for i in range(len(model)):
        for j in range(i + 1, len(model)):
            sign = (teacher[i] > teacher[j]) - (teacher[i] < teacher[j])
            total += max(0.0, -(model[i] - model[j]) * sign)
    return total


def maps(seed: int, length: int) -> Tensor:
    scores = torch.randn(LAYERS, HEADS, length, length, generator=torch.Generator().manual_seed(seed))
    return attention_maps(scores, torch.ones(LAYERS, length, dtype=torch.bool))


def main() -> None:
    """Measures, and prints a line per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for length in options.lengths:
        model, teacher = maps(1, length), maps(2, length)
        counted = torch.ones(LAYERS, length, dtype=torch.bool)
        some = range(0, length, 4)  # queries of the first layer and head
        pairs, sorts = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            slow = [by_pairs(model[0, 0, query].tolist(), teacher[0, 0, query].tolist()) for query in some]
            between = time.perf_counter()
            found = ranking_loss(model, teacher, counted)
            sorts.append(time.perf_counter() - between)
            pairs.append((between - start) / len(some) * LAYERS * HEADS * length)
            torch.testing.assert_close(found[0, 0, list(some)], torch.tensor(slow, dtype=torch.float64))
        ratio = statistics.median(slow / fast for slow, fast in zip(pairs, sorts, strict=True))
        print(
            f"{length} tokens: {1000 * statistics.median(sorts):.0f} ms; "
            f"pair by pair {statistics.median(pairs):.1f} s, {ratio:.0f} times as long"
        )


if __name__ == "__main__":
    main()
