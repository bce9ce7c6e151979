"""The criterion for the agreement of two models."""

import numpy as np
import pytest

from kdqat_cli.errors import GateError
from kdqat_cli.exporters.parity import BOUND, Parity, compare, require, require_tokens


def test_labels_are_counted_by_hand() -> None:
    student = np.array([[1.0, 0.0], [0.2, 0.1], [-1.0, 3.0]], dtype=np.float32)
    exported = np.array([[1.5, 0.0], [0.1, 0.2], [-1.0, 3.0]], dtype=np.float32)
    assert compare(student, student) == Parity(rows=3, differing=0, largest=0.0, share=0.0)
    assert compare(student, exported) == Parity(rows=3, differing=1, largest=0.5, share=1 / 3)


def test_a_number_differs_if_it_changes_by_a_tenth_of_the_spread() -> None:
    student = np.array([[-1.0], [1.0], [-1.0], [1.0]], dtype=np.float32)  # standard deviation 1
    exported = student + np.array([[0.09], [-0.09], [0.11], [0.0]], dtype=np.float32)
    assert compare(student, exported).differing == 1


@pytest.mark.parametrize("labels", [1, 2])
def test_nan_differs(labels: int) -> None:
    student = np.ones((4, labels), dtype=np.float32)
    exported = student.copy()
    exported[2, 0] = np.nan
    assert compare(student, exported).differing == 1


def test_each_label_of_a_multi_label_row_is_an_answer() -> None:
    """σ(0.5) = 0.62: above a threshold of 0.6, below one of 0.7."""
    student = np.array([[1.0, 0.5, -2.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    exported = np.array([[1.0, 0.3, -2.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    assert compare(student, exported, 0.7).share == 0
    found = compare(student, exported, 0.6)
    assert (found.differing, found.share) == (1, 1 / 6)
    exported[1, 0] = np.inf
    assert compare(student, exported, 0.6).share == 4 / 6


def test_other_shapes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare(np.zeros((3, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.float32))


def test_the_bound_is_a_share_of_the_rows() -> None:
    require(Parity(rows=1000, differing=int(1000 * BOUND), largest=1.0, share=BOUND), "it")
    with pytest.raises(
        GateError, match="it gives other answers than the student on 31 of 1000 rows, more than 3 %"
    ) as caught:
        require(Parity(rows=1000, differing=31, largest=1.0, share=0.031), "it")
    assert caught.value.exit_code == 4


def test_tokens_may_differ_in_a_hundredth_of_the_texts() -> None:
    texts = [f"text {number}" for number in range(200)]
    ids = [[1, number] for number in range(200)]
    others = [[1, 0, 0] if number in (3, 70) else row for number, row in enumerate(ids)]
    assert require_tokens(texts, ids, ids, "It") == 0
    assert require_tokens(texts, ids, others, "It") == 2
    others[150] = []
    expected = r"It splits 3 of 200 texts .*: 'text 3' becomes \[1, 0, 0\] instead of \[1, 3\]; nothing was written"
    with pytest.raises(GateError, match=expected):
        require_tokens(texts, ids, others, "It")
    with pytest.raises(GateError, match="It splits 1 of 1 texts"):
        require_tokens(texts[:1], ids[:1], [[2]], "It", bound=0.0)
    assert require_tokens([], [], [], "It", bound=0.0) == 0
