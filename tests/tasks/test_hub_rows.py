"""Rows of a hub data set: its classes are matched by name, also if they are nested."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.schema import Columns, Hub
from tests.tasks.test_data import SCORE, mood


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that replaces a data set of the hub."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def put_on_hub(hub: Path, features: dict[str, Any], rows: dict[str, list[Any]]) -> Hub:
    hub.mkdir()
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(hub / "train.parquet")
    columns = Columns(text="text", label="label")
    return Hub(path=str(hub), splits={"train": "train", "dev": "train"}, columns=columns)


TEXT = datasets.Value("string")


def test_hub_classes_are_mapped_by_name(hub: Path) -> None:
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["glad", "sad"])}
    source = put_on_hub(hub, features, {"text": ["A", "B"], "label": [0, 1]})
    rows = load_split(mood(hub=source), "dev")
    assert rows["label"][:] == [1, 0]
    assert rows.info.description == f"{hub}, split train"


def test_hub_numbers_without_names_are_indices(hub: Path) -> None:
    source = put_on_hub(hub, {"text": TEXT, "label": datasets.Value("int8")}, {"text": ["A", "B"], "label": [0, 1]})
    assert load_split(mood(hub=source), "dev")["label"][:] == [0, 1]


def test_hub_classes_whose_names_are_their_indices(hub: Path) -> None:
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["0", "1"])}
    source = put_on_hub(hub, features, {"text": ["A", "B"], "label": [0, 1]})
    assert load_split(mood(hub=source), "dev")["label"][:] == [0, 1]


def test_a_hub_class_is_never_used_as_an_index(hub: Path) -> None:
    """The class "1" is the first class of the hub; the class with index 1 is the second class of the task."""
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["1", "2"])}
    source = put_on_hub(hub, features, {"text": ["A"], "label": [0]})
    with pytest.raises(MissingInputError, match=r"row 1: the label '1' .* unknown; the labels are sad, glad"):
        load_split(mood(hub=source), "dev")


def test_nested_hub_classes_are_mapped_by_name(hub: Path) -> None:
    features = {"text": TEXT, "label": {"mood": datasets.ClassLabel(names=["glad", "sad"])}}
    source = put_on_hub(hub, features, {"text": ["A", "B"], "label": [{"mood": 0}, {"mood": 1}]})
    source = source.model_copy(update={"columns": Columns(text="text", label="label.mood")})
    assert load_split(mood(hub=source), "dev")["label"][:] == [1, 0]


def test_nested_hub_columns(hub: Path) -> None:
    features = {"text": TEXT, "label": {"real": datasets.Value("float64")}}
    source = put_on_hub(hub, features, {"text": ["A"], "label": [{"real": 2.5}]})
    source = source.model_copy(update={"columns": Columns(text="text", label="label.real")})
    assert load_split(mood(hub=source, **SCORE), "dev")["label"][:] == [2.5]


@pytest.mark.parametrize(
    ("label", "column", "sentence"),
    [
        (-1, "label", "split train: its labels are hidden (-1), so nothing can be scored on it."),
        (
            2,
            "label",
            "split train, row 1: the label 'angry' in the column 'label' is unknown; the labels are sad, glad.",
        ),
        (0, "feeling", "split train has no column 'feeling'; it has text, label."),
    ],
)
def test_a_wrong_hub_row_is_named(label: int, column: str, sentence: str, hub: Path) -> None:
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["glad", "sad", "angry"])}
    source = put_on_hub(hub, features, {"text": ["A"], "label": [label]})
    source = source.model_copy(update={"columns": Columns(text="text", label=column)})
    with pytest.raises(MissingInputError) as caught:
        load_split(mood(hub=source), "dev")
    assert sentence in caught.value.sentence


def test_lists_of_hub_classes_are_mapped_by_name(hub: Path) -> None:
    classes = datasets.ClassLabel(names=["glad", "sad"])
    rows: dict[str, list[Any]] = {"text": ["A", "B", "C"], "label": [[0], [], [1, 0]]}
    source = put_on_hub(hub, {"text": TEXT, "label": datasets.List(classes)}, rows)
    several = mood(hub=source, multi_label=True, metric="micro_f1", also=[])
    assert load_split(several, "dev")["label"][:] == [[0, 1], [0, 0], [1, 1]]
