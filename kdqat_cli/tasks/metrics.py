"""Metrics in percent, as in the tables of the paper (81.2, not 0.812).

They are computed by scikit-learn and scipy. A metric that is not defined is 0, for example the correlation of a
constant prediction.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn import metrics

from kdqat_cli.tasks.task import LabelledTask

Array = npt.NDArray[np.generic]
_DECIMALS = 10


def compute_metrics(task: LabelledTask, logits: Array, labels: Array) -> dict[str, float]:
    """Computes the task's metrics in percent. `score` is the headline; if it has two parts, it is their mean.

    Args:
        task: the task, which names the metrics.
        logits: (rows, labels); for a regression (rows, 1), the predicted numbers.
        labels: (rows,), class indices or numbers.
    """
    return _scores(task, logits[:, 0] if task.regression else logits.argmax(axis=1), labels)


def chance_score(task: LabelledTask, labels: Array) -> float:
    """The best score in percent of any constant answer, which a model can reach without learning anything."""
    if task.regression:
        return 0.0
    return max(_scores(task, np.full_like(labels, answer), labels)["score"] for answer in range(task.num_labels))


def _scores(task: LabelledTask, predictions: Array, labels: Array) -> dict[str, float]:
    parts = {name: 100 * _METRICS[name](labels, predictions) for name in task.metrics}
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
