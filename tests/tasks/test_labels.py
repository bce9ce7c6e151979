"""Labels: names first, an index only if it cannot be confused with a name, and numbers in a range."""

import unicodedata
from typing import Any

import pytest

from kdqat_cli.tasks.labels import Labels

STARS = ["1", "2", "3", "4", "5"]
MOODS = ["sad", "glad"]


@pytest.mark.parametrize(
    ("classes", "given", "index"),
    [
        # The names are numbers, so indices are not accepted.
        (STARS, "5", 4),
        (STARS, 5, 4),
        (STARS, "1", 0),
        (STARS, "0", None),
        (STARS, 0, None),
        (STARS, "6", None),
        (STARS, 5.0, None),
        (STARS, "5.0", None),
        (STARS, "01", None),
        (STARS, True, None),
        (["1", "2"], "0", None),
        (["-1", "0", "1"], "2", None),
        (["-1", "0", "1"], -1, 0),
        (["2", "0", "1"], "2", 0),
        (["1.0", "2.0"], "1", None),
        (["0.5", "1.5"], 0.5, 0),
        (["none", "1"], "0", None),
        # The names are words, so an index from 0 is accepted, in its exact form.
        (MOODS, "glad", 1),
        (MOODS, "1", 1),
        (MOODS, 1, 1),
        (MOODS, "2", None),
        (MOODS, "-1", None),
        (MOODS, "01", None),
        (MOODS, "+1", None),
        (MOODS, "1.0", None),
        (MOODS, 1.0, None),
        (MOODS, True, None),
        (MOODS, False, None),
        (MOODS, "\uff11", None),  # a full-width digit
        (MOODS, ["sad"], None),
        (MOODS, {"sad": 1}, None),
        (["1 star", "2 stars"], "1", 1),
        # Spaces are ignored, case is not.
        (MOODS, " glad\u00a0", 1),
        ([" sad ", "glad"], "sad", 0),
        (MOODS, "Glad", None),
        # The value true in JSON and Python.
        (["false", "true"], True, 1),
        (["False", "True"], True, 1),
        (["true", "True"], True, 1),
        (["false", "true"], "true", 1),
        (["false", "true"], "1", 1),
    ],
)
def test_a_class(classes: list[str], given: Any, index: int | None) -> None:
    assert Labels(classes, None).value(given) == index


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["경제", "café"])
def test_the_unicode_form_of_a_name_is_ignored(name: str, form: Any) -> None:
    known = Labels(["other", unicodedata.normalize(form, name)], None)
    assert {known.value(unicodedata.normalize(other, name)) for other in ("NFC", "NFD")} == {1}


def test_a_certain_name_is_never_an_index() -> None:
    assert Labels(MOODS, None).value("1", named=True) is None
    assert Labels(MOODS, None).value("glad", named=True) == 1
    assert Labels(STARS, None).value("1", named=True) == 0


@pytest.mark.parametrize(
    ("given", "number"),
    [("3.5", 3.5), (3.5, 3.5), (0, 0.0), (" 5 ", 5.0), ("5.1", None), ("nan", None), (True, None), ("a", None)],
)
def test_a_number_in_a_range(given: Any, number: float | None) -> None:
    assert Labels(None, [0.0, 5.0]).value(given) == number


def test_the_text_of_an_error() -> None:
    assert Labels(STARS, None).fault() == "is unknown; the labels are 1, 2, 3, 4, 5"
    assert Labels(None, [0.0, 5.0]).fault() == "is not a number from 0 to 5"


@pytest.mark.parametrize(
    ("classes", "given", "found"),
    [
        (MOODS, ["glad"], [0, 1]),
        (MOODS, ["glad", "sad", "glad"], [1, 1]),
        (MOODS, [], [0, 0]),
        (MOODS, "", [0, 0]),
        (MOODS, " ", [0, 0]),
        (MOODS, "glad", [0, 1]),
        (MOODS, " sad | glad ", [1, 1]),
        (MOODS, "1|0", [1, 1]),
        (MOODS, [1], [0, 1]),
        (STARS, "1|5", [1, 0, 0, 0, 1]),
        (STARS, "0", None),
        (MOODS, "glad|", None),
        (MOODS, "|", None),
        (MOODS, "glad,sad", None),
        (MOODS, ["glad|sad"], None),
        (MOODS, [["glad"]], None),
        (MOODS, [None], None),
        (MOODS, None, None),
        (MOODS, 1, None),
        (MOODS, {"glad": 1}, None),
    ],
)
def test_any_number_of_labels(classes: list[str], given: Any, found: list[int] | None) -> None:
    assert Labels(classes, None, several=True).read(given) == found
