"""A missing model: the error names models near it, and the command that corrects the mistake."""

from pathlib import Path

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.hub import refuse_absent


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    return folder


def refused(model: Path | str, fix: str | None = None) -> MissingInputError:
    with pytest.raises(MissingInputError) as caught:
        refuse_absent(str(model), fix)
    return caught.value


def test_models_near_an_absent_folder_and_the_likely_one_are_named(tmp_path: Path) -> None:
    for name in ("map-1", "map-42", "output-42", "score-42"):
        made(tmp_path / "packed" / name / "model")
    packed = tmp_path / "packed"
    (packed / "notes").mkdir()
    told = refused(packed / "map-43")
    assert told.sentence == (
        f"There is no model folder {packed}/map-43. "
        f"Near it: {packed}/map-1, {packed}/map-42, {packed}/output-42 and 1 more."
    )
    assert told.fix == f"the same command with {packed}/map-42"
    assert refused(packed / "map-43/model").fix == f"the same command with {packed}/map-42"
    assert refused(packed / "map-43", "kdqat export --task rte").fix == "kdqat export --task rte"
    assert refused(packed / "xyz").fix == "the same command with a model folder, or a hub id (OWNER/NAME)"


def test_without_similar_names_the_message_lists_the_forms_of_a_model(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent").fix == "the same command with a model folder, or a hub id (OWNER/NAME)"
    bare = refused("bert-base-uncased")
    assert "A hub id has the form OWNER/NAME." in bare.sentence
    assert bare.fix == "search the model hub for bert-base-uncased, and give OWNER/bert-base-uncased"


def test_a_file_names_the_folder_around_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "model")
    told = refused(folder / "config.json")
    assert told.sentence == f"{folder}/config.json is a file, not a model folder."
    assert told.fix == f"the same command with {folder}"


def test_folders_and_hub_ids_are_not_refused(tmp_path: Path) -> None:
    refuse_absent(str(tmp_path), None)
    refuse_absent("google-bert/bert-base-uncased", None)
