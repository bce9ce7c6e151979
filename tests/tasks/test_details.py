"""Measures per class and the tables of rows, on answers whose numbers can be counted by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest

from kdqat_cli.store.details import write_details
from kdqat_cli.tasks.details import Answers, agreement, tables
from kdqat_cli.tasks.task import LabelledTask

TASK = LabelledTask(name="t", title="T", metric="accuracy", labels=["a", "b", "c"])
RATED = LabelledTask(name="r", title="R", metric="pearson", range=[0.0, 5.0])
# Gold labels a a a b b c, answers a a b b b b: c is never an answer.
LABELS = np.array([0, 0, 0, 1, 1, 2])
LOGITS = np.log(
    np.array([[8, 1, 1], [6, 3, 1], [2, 7, 1], [1, 8, 1], [1, 8, 1], [2, 5, 3]], dtype=np.float32) / np.float32(10)
)
ANSWERS = Answers(LOGITS, LABELS, {"text": list("uvwxyz")})


def test_precision_recall_and_f1_of_each_class() -> None:
    a, b, c = tables(TASK, ANSWERS)["classes"].rows
    assert a == {"label": "a", "rows": 3, "answers": 2, "precision": 100.0, "recall": 66.6667, "f1": 80.0}
    assert b == {"label": "b", "rows": 2, "answers": 4, "precision": 50.0, "recall": 100.0, "f1": 66.6667}
    assert c == {"label": "c", "rows": 1, "answers": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_the_confusion_has_each_row() -> None:
    rows = tables(TASK, ANSWERS)["confusion"].rows
    assert [f"{row['actual']}{row['predicted']}" for row in rows] == ["aa", "aa", "ab", "bb", "bb", "cb"]


def test_wrong_rows_have_their_number_and_their_texts() -> None:
    teacher = Answers(np.roll(LOGITS, 1, axis=1), LABELS)
    columns, rows = tables(TASK, ANSWERS, teacher)["wrong"]
    assert columns == ["row", "text", "label", "predicted", "teacher", "probability"]
    assert rows == [
        {"row": 3, "text": "w", "label": "a", "predicted": "b", "teacher": "c", "probability": 0.7},
        {"row": 6, "text": "z", "label": "c", "predicted": "b", "teacher": "c", "probability": 0.5},
    ]
    none = tables(TASK, Answers(LOGITS, LOGITS.argmax(axis=1)))["wrong"]
    assert none == (["row", "label", "predicted", "probability"], [])


def test_agreement_against_a_plain_loop() -> None:
    teacher = Answers(LOGITS[::-1].copy(), LABELS)
    found = agreement(TASK, ANSWERS, teacher)
    p, q = np.exp(teacher.logits.astype(float)), np.exp(LOGITS.astype(float))
    kl = sum(p[i, j] * np.log(p[i, j] / q[i, j]) for i in range(6) for j in range(3)) / 6
    assert found["teacher_kl"] == pytest.approx(kl, rel=1e-6)
    same = sum(p[i].argmax() == q[i].argmax() for i in range(6))
    assert found["teacher_agreement"] == pytest.approx(100 * same / 6)
    assert agreement(TASK, ANSWERS, ANSWERS) == {"teacher_agreement": 100.0, "teacher_kl": 0.0}


def test_in_a_regression_the_rows_with_the_largest_errors_come_first() -> None:
    answers = Answers(np.array([[1.0], [4.0], [2.5]], np.float32), np.array([1.5, 1.0, 2.5]))
    made = tables(RATED, answers)
    assert list(made) == ["wrong"]
    assert [(row["row"], row["error"]) for row in made["wrong"].rows] == [(2, 3.0), (1, 0.5), (3, 0.0)]
    assert agreement(RATED, answers, Answers(answers.logits + 1, answers.labels)) == {"teacher_distance": 1.0}


def test_every_text_survives_in_a_table(tmp_path: Path) -> None:
    texts = ["a\rb", "a\r\nb", "a\nb", 'say "a", b', " "]
    write_details(tmp_path / "d", {"wrong": (["text"], [{"text": text} for text in texts])}, {})
    with (tmp_path / "d/wrong.csv").open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts


SETS = LabelledTask(name="m", title="M", metric="micro_f1", labels=["a", "b"], multi_label=True)
# Probabilities 0.9 and 0.2, 0.6 and 0.6, 0.1 and 0.3, with a threshold of 0.5: {a}, {a, b}, {}.
CHANCES = np.array([[0.9, 0.2], [0.6, 0.6], [0.1, 0.3]])
HELD = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


def answered(chances: np.ndarray, threshold: float = 0.5) -> Answers:
    return Answers(np.log(chances / (1 - chances)).astype(np.float32), HELD, {"text": list("xyz")}, threshold)


def test_each_label_of_a_label_set_is_counted_separately() -> None:
    made = tables(SETS, answered(CHANCES), answered(CHANCES, 0.25))
    assert list(made) == ["classes", "wrong"]
    a, b = made["classes"].rows
    assert a == {"label": "a", "rows": 2, "answers": 2, "precision": 50.0, "recall": 50.0, "f1": 50.0}
    assert b == {"label": "b", "rows": 1, "answers": 1, "precision": 100.0, "recall": 100.0, "f1": 100.0}
    assert made["wrong"].rows == [
        {"row": 2, "text": "y", "label": "b", "predicted": "a|b", "teacher": "a|b", "probability": 0.36},
        {"row": 3, "text": "z", "label": "a", "predicted": "", "teacher": "b", "probability": 0.63},
    ]


def test_agreement_of_label_sets_against_a_plain_loop() -> None:
    ours, theirs = answered(CHANCES), answered(CHANCES[::-1], 0.5)
    found = agreement(SETS, ours, theirs)
    pairs = zip(CHANCES[::-1].flatten(), CHANCES.flatten(), strict=True)
    divergence = sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)) for p, q in pairs) / 3
    assert found["teacher_kl"] == pytest.approx(divergence, rel=1e-6)
    assert found["teacher_agreement"] == pytest.approx(100 / 3)
