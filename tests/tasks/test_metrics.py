"""Metrics: a worked example, the formulas in float64, and the scores of constant answers."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from kdqat_cli.tasks.metrics import chance_score, compute_metrics
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.task import LabelledTask

LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0])
PREDICTIONS = np.array(
    [1, 1, 1, 0, 0, 0, 0, 1]
)  # 3 true positives, 2 false negatives, 1 false positive, 2 true negatives


def one_hot(predictions: Any, num_labels: int = 2) -> Any:
    return np.eye(num_labels, dtype=np.float32)[predictions]


def test_worked_example() -> None:
    """By hand: accuracy 5/8; F1 = 2·3 / (2·3 + 1 + 2) = 2/3; MCC = (3·2 - 1·2) / √(4·5·3·4) = 4/√240."""
    assert compute_metrics(load_text_task("rte"), one_hot(PREDICTIONS), LABELS) == {"score": 62.5, "accuracy": 62.5}
    assert compute_metrics(load_text_task("mrpc"), one_hot(PREDICTIONS), LABELS) == pytest.approx(
        {"score": (62.5 + 200 / 3) / 2, "f1": 200 / 3, "accuracy": 62.5}
    )
    matthews = 400 / 240**0.5
    assert compute_metrics(load_text_task("cola"), one_hot(PREDICTIONS), LABELS) == pytest.approx(
        {"score": matthews, "matthews": matthews}
    )


def test_a_whole_percentage_is_exact() -> None:
    """57 correct answers of 100 must reach a threshold of 57."""
    labels = np.zeros(100, dtype=np.int64)
    for right in range(101):
        predictions = (np.arange(100) >= right).astype(np.int64)
        expected = {"score": right, "accuracy": right}
        assert compute_metrics(load_text_task("rte"), one_hot(predictions), labels) == expected


def pearson(x: Any, y: Any) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def ranks(x: Any) -> Any:
    """The mean rank of each value among equal values, by counting."""
    return np.array([(x < value).sum() + ((x == value).sum() + 1) / 2 for value in x])


def f1_of(answer: int, labels: Any, predictions: Any) -> float:
    hits = ((labels == answer) & (predictions == answer)).sum()
    return float(2 * hits / ((labels == answer).sum() + (predictions == answer).sum()))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_agree_with_their_formulas(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 26, 200) / 5
    logits = (labels[:, None] + random.normal(0, 2, (200, 1))).round(1).astype(np.float32)
    x = logits[:, 0].astype(np.float64)
    expected = {"pearson": 100 * pearson(x, labels), "spearman": 100 * pearson(ranks(x), ranks(labels))}
    measured = compute_metrics(load_text_task("stsb"), logits, labels)
    assert measured == pytest.approx({"score": sum(expected.values()) / 2, **expected}, abs=1e-6)
    measured = compute_metrics(load_text_task("klue-sts"), logits, labels)
    assert measured == pytest.approx({"score": expected["pearson"], **expected}, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_classification_agrees_with_its_formulas(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, 300)
    logits = one_hot(labels, 7) + random.normal(0, 0.6, (300, 7))
    predictions = np.array([max(range(7), key=row.__getitem__) for row in logits])
    accuracy = 100 * float((labels == predictions).mean())
    macro = 100 * float(np.mean([f1_of(answer, labels, predictions) for answer in range(7)]))
    measured = compute_metrics(load_text_task("klue-tc"), logits, labels)
    assert measured == pytest.approx({"score": accuracy, "accuracy": accuracy, "macro_f1": macro})


@pytest.mark.parametrize("constant", [0.0, 1e6, np.nan])
@pytest.mark.parametrize("name", ["stsb", "klue-sts"])
@pytest.mark.filterwarnings("error")
def test_an_undefined_correlation_is_zero(name: str, constant: float) -> None:
    measured = compute_metrics(load_text_task(name), np.full((4, 1), constant), np.array([0.0, 1.0, 2.0, 5.0]))
    assert set(measured.values()) == {0.0}


@pytest.mark.filterwarnings("error")
def test_constant_classes_are_defined() -> None:
    zeros = np.zeros(8, dtype=int)
    assert compute_metrics(load_text_task("cola"), one_hot(zeros), LABELS)["score"] == 0.0
    assert compute_metrics(load_text_task("mrpc"), one_hot(zeros), LABELS) == {
        "score": 18.75,
        "f1": 0.0,
        "accuracy": 37.5,
    }


def test_chance_is_the_best_constant_answer() -> None:
    assert chance_score(load_text_task("rte"), LABELS) == 62.5
    assert chance_score(load_text_task("rte"), 1 - LABELS) == 62.5
    # Always "equivalent": accuracy 5/8 and F1 = 2·5 / (5 + 8).
    assert chance_score(load_text_task("mrpc"), LABELS) == pytest.approx((62.5 + 1000 / 13) / 2)
    assert chance_score(load_text_task("mnli"), np.array([0, 1, 2, 2])) == 50.0
    assert chance_score(load_text_task("cola"), LABELS) == 0.0
    assert chance_score(load_text_task("stsb"), np.array([1.0, 2.5])) == 0.0


@pytest.mark.parametrize("name", ["rte", "stsb"])
def test_scores_are_plain_floats(name: str) -> None:
    task = load_text_task(name)
    logits = np.random.default_rng(0).normal(size=(8, task.num_labels)).astype(np.float32)
    assert all(type(value) is float for value in compute_metrics(task, logits, LABELS).values())


def of_sets(metric: str, **fields: Any) -> LabelledTask:
    return LabelledTask.model_validate(
        {"name": "t", "title": "T", "metric": metric, "labels": ["a", "b", "c"], "multi_label": True} | fields
    )


ALL = {"also": ["micro_f1", "macro_f1", "accuracy"]}


def test_label_sets_by_hand() -> None:
    """Gold labels {a}, {a, b}, {}, answers {a, c}, {b}, {}: 2 correct labels, 3 answered ones, 3 gold ones."""
    gold = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    logits = np.where([[1, 0, 1], [0, 1, 0], [0, 0, 0]], 1.0, -1.0).astype(np.float32)
    found = compute_metrics(of_sets("micro_f1", **ALL), logits, gold, 0.5)
    expected = {"micro_f1": 200 * 2 / 6, "macro_f1": 100 * (2 / 3 + 1 + 0) / 3, "accuracy": 100 / 3, "threshold": 0.5}
    assert found == pytest.approx(expected | {"score": 200 * 2 / 6})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "accuracy"])
def test_label_sets_agree_with_scikit_learn_and_the_threshold_is_the_best(metric: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 2, (40, 3)).astype(np.float32)
    gold = (random.random((40, 3)) < expit(logits) * [1, 1, seed % 2]).astype(float)  # c never occurs
    found = compute_metrics(of_sets(metric, **ALL), logits, gold)
    answers = logits.astype(np.float64) >= logit(found["threshold"])
    assert found["micro_f1"] == pytest.approx(100 * metrics.f1_score(gold, answers, average="micro"))
    assert found["macro_f1"] == pytest.approx(100 * metrics.f1_score(gold, answers, average="macro", zero_division=0))
    assert found["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, answers))
    thresholds = [number / 100 for number in range(1, 100)]
    scores = {one: compute_metrics(of_sets(metric, **ALL), logits, gold, one)["score"] for one in thresholds}
    best = [one for one, score in scores.items() if score == max(scores.values())]
    assert found["threshold"] == min(best, key=lambda one: abs(one - 0.5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "accuracy"])
def test_chance_of_label_sets_is_the_best_of_all_constant_sets(metric: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    gold = (random.random((30, 3)) < random.random(3)).astype(float)
    task = of_sets(metric)
    constants = [np.array([number >> label & 1 for label in range(3)]) for number in range(8)]
    scores = [
        compute_metrics(task, np.tile(np.where(one, 9.0, -9.0), (30, 1)), gold, 0.5)["score"] for one in constants
    ]
    assert chance_score(task, gold) == max(scores)
