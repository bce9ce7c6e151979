"""When two models are said to agree."""

import numpy as np
import pytest

from kdqat_cli.errors import GateError
from kdqat_cli.exporters.parity import BOUND, Parity, compare, require


def test_labels_are_counted_by_hand() -> None:
    student = np.array([[1.0, 0.0], [0.2, 0.1], [-1.0, 3.0]], dtype=np.float32)
    exported = np.array([[1.5, 0.0], [0.1, 0.2], [-1.0, 3.0]], dtype=np.float32)
    assert compare(student, student) == Parity(rows=3, differing=0, largest=0.0)
    assert compare(student, exported) == Parity(rows=3, differing=1, largest=0.5)


def test_a_single_number_differs_where_it_moves_by_a_tenth_of_the_spread() -> None:
    student = np.array([[-1.0], [1.0], [-1.0], [1.0]], dtype=np.float32)  # standard deviation 1
    exported = student + np.array([[0.09], [-0.09], [0.11], [0.0]], dtype=np.float32)
    assert compare(student, exported).differing == 1


@pytest.mark.parametrize("labels", [1, 2])
def test_not_a_number_differs(labels: int) -> None:
    student = np.ones((4, labels), dtype=np.float32)
    exported = student.copy()
    exported[2, 0] = np.nan
    assert compare(student, exported).differing == 1


def test_other_shapes_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare(np.zeros((3, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.float32))


def test_the_bound_is_a_share_of_the_rows() -> None:
    require(Parity(rows=1000, differing=int(1000 * BOUND), largest=1.0), "it")
    with pytest.raises(GateError, match="it disagrees with the student on 31 of 1000 rows, more than 3 %") as caught:
        require(Parity(rows=1000, differing=31, largest=1.0), "it")
    assert caught.value.exit_code == 4
