"""The history of a training: mean losses at intervals, and the dev metrics of each evaluation."""

import csv
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from kdqat_cli import group

Row = dict[str, float]
"""One row of a history: step, epoch, learning_rate, loss and its terms, and after an evaluation the dev metrics."""

GROWTH = 10.0
"""A training has diverged if its mean loss is above this many times the first loss, and above this value."""
_FIRST = ("step", "epoch", "learning_rate", "loss")


class LossMeans:
    """Mean losses of the steps since the last log, summed on the device, so that only a log waits for the device."""

    def __init__(self) -> None:
        """Starts without steps."""
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Adds the losses of one step, by name."""
        for name, value in losses.items():
            total = self._sums.get(name)
            self._sums[name] = value.detach().clone() if total is None else total.add_(value.detach())
        self._steps += 1

    def take(self) -> Row:
        """The means over steps and processes, by name; starts again without steps."""
        sums = group.add_up(torch.stack(list(self._sums.values()))).tolist()
        means = {name: total / (self._steps * group.size()) for name, total in zip(self._sums, sums, strict=True)}
        self._sums.clear()
        self._steps = 0
        return means


def growth(history: list[Row]) -> str | None:
    """A clause that says how the loss has grown since the last evaluation; None: it has not grown out of bounds.

    It checks the mean over all these steps, because one log may be of one step, and one bad batch is not a divergence.

    Args:
        history: all rows; the last one is not evaluated yet.
    """
    last = max((index for index, row in enumerate(history) if "score" in row), default=-1)
    before = history[last]["step"] if last >= 0 else 0
    steps = history[-1]["step"] - before
    first, means = history[0], dict.fromkeys((key for key in history[0] if key.startswith("loss")), 0.0)
    for row in history[last + 1 :]:
        for key in means:
            means[key] += row[key] * (row["step"] - before) / steps
        before = row["step"]
    if means["loss"] <= GROWTH * max(first["loss"], 1.0):
        return None
    term = max((key for key in means if key.startswith("loss_")), key=lambda key: means[key] - first[key])
    return (
        f"the loss has grown from {first['loss']:.4g} to {means['loss']:.4g}, its term {term.removeprefix('loss_')} "
        f"from {first[term]:.4g} to {means[term]:.4g}"
    )


def write_history(path: Path, history: Iterable[Row]) -> None:
    """Writes a history as a CSV file, for `dvc plots`; a column that a row lacks is empty in it."""
    rows = list(history)
    known = {key for row in rows for key in row}
    columns = [*_FIRST, *sorted(known - set(_FIRST))]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
