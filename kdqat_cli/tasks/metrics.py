"""Metrics in percent, as in the tables of the paper (81.2, not 0.812).

All but those of multi-label tasks are computed by scikit-learn and scipy. A metric that is not defined is 0, for
example the correlation of a constant prediction.

For a multi-label task, with labels counted over all rows:

    micro_f1 = 2 · right labels / (answered labels + labels of the rows)
    macro_f1 = mean of the labels' F1
    accuracy = share of rows whose answered labels are exactly the labels of the row

The answered labels are those that reach a threshold (tasks/labels.py). A training chooses it on dev: the one of
0.01, 0.02, …, 0.99 with the best headline. Among equally good ones it is the nearest to 0.5. All labels share one,
because one per label would fit the few rows of rare labels. It is among the figures, as the probability `threshold`.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn import metrics

from kdqat_cli.tasks.labels import reached
from kdqat_cli.tasks.task import LabelledTask

Array = npt.NDArray[np.generic]
_DECIMALS = 10
_THRESHOLDS = [number / 100 for number in sorted(range(1, 100), key=lambda number: abs(number - 50))]


def compute_metrics(
    task: LabelledTask, logits: Array, labels: Array, threshold: float | None = None
) -> dict[str, float]:
    """Computes the task's metrics in percent. `score` is the headline; if it has two parts, it is their mean.

    Args:
        task: the task, which names the metrics.
        logits: (rows, labels); for a regression (rows, 1), the predicted numbers.
        labels: (rows,), class indices or numbers; for a multi-label task (rows, labels), 1 or 0.
        threshold: least probability of an answered label of a multi-label task; None: the best one for these rows.
    """
    if task.multi_label:
        if threshold is None:
            threshold = max(_THRESHOLDS, key=lambda one: _scores(task, reached(logits, one), labels)["score"])
        return _scores(task, reached(logits, threshold), labels) | {"threshold": threshold}
    return _scores(task, logits[:, 0] if task.regression else logits.argmax(axis=1), labels)


def chance_score(task: LabelledTask, labels: Array) -> float:
    """The best score in percent of any constant answer, which a model can reach without learning anything."""
    if task.regression:
        return 0.0
    answers = _constant_label_sets(labels) if task.multi_label else range(task.num_labels)
    return max(_scores(task, np.full_like(labels, answer), labels)["score"] for answer in answers)


def _constant_label_sets(labels: Array) -> list[Array]:
    """Candidates (labels,) that include the best set: the k most frequent labels for F1, the most frequent set."""
    order = np.argsort(-labels.sum(axis=0), kind="stable")
    frequent = [np.isin(np.arange(len(order)), order[:count]) for count in range(len(order) + 1)]
    sets, counts = np.unique(labels, axis=0, return_counts=True)
    return [*frequent, sets[counts.argmax()]]


def _scores(task: LabelledTask, predictions: Array, labels: Array) -> dict[str, float]:
    known = _OF_SETS if task.multi_label else _METRICS
    parts = {name: 100 * known[name](labels, predictions) for name in task.metrics}
    headline = task.metric.split("+")
    scores = {"score": sum(parts[name] for name in headline) / len(headline), **parts}
    # In floating point, 100 × 0.57 is less than 57, so without rounding a score of 57 would fail --min-score 57.
    return {name: round(score, _DECIMALS) for name, score in scores.items()}


def _accuracy(labels: Array, predictions: Array) -> float:
    return float(metrics.accuracy_score(labels, predictions))


def _f1(labels: Array, predictions: Array) -> float:
    """F1 of the second label, the positive one."""
    return float(metrics.f1_score(labels, predictions, zero_division=0.0))


def _macro_f1(labels: Array, predictions: Array) -> float:
    """The mean over the labels of their F1."""
    return float(metrics.f1_score(labels, predictions, average="macro", zero_division=0.0))


def _matthews(labels: Array, predictions: Array) -> float:
    return float(metrics.matthews_corrcoef(labels, predictions))


def _pearson(labels: Array, predictions: Array) -> float:
    return _correlation(stats.pearsonr, labels, predictions)


def _spearman(labels: Array, predictions: Array) -> float:
    return _correlation(stats.spearmanr, labels, predictions)


def _correlation(measure: Callable[..., tuple[float, float]], labels: Array, predictions: Array) -> float:
    x, y = labels.astype(np.float64), predictions.astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.nan_to_num(measure(x, y)[0]))


_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}


def _counts(labels: Array, predictions: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per label: the rows with it in gold and answer; and the rows with it in gold plus those with it in the answer."""
    gold, found = labels.astype(bool), predictions.astype(bool)
    return (gold & found).sum(axis=0), gold.sum(axis=0) + found.sum(axis=0)


def _micro_f1_of_sets(labels: Array, predictions: Array) -> float:
    right, all_ = _counts(labels, predictions)
    return float(2 * right.sum() / max(all_.sum(), 1))


def _macro_f1_of_sets(labels: Array, predictions: Array) -> float:
    right, all_ = _counts(labels, predictions)
    return float((2 * right / np.maximum(all_, 1)).mean())


def _accuracy_of_sets(labels: Array, predictions: Array) -> float:
    return float((labels == predictions).all(axis=1).mean())


_OF_SETS: dict[str, Callable[[Array, Array], float]] = {
    "micro_f1": _micro_f1_of_sets,
    "macro_f1": _macro_f1_of_sets,
    "accuracy": _accuracy_of_sets,
}
"""Own code, because scikit-learn takes a hundred times as long, and a training computes them for every threshold."""
