"""The export stage: every format on the dev rows of a task, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdqat_cli.errors import ConfigError, GateError, MissingInputError
from kdqat_cli.exporters import catalogue, dense
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.params import load_recipe
from kdqat_cli.record import Record
from kdqat_cli.stages.evaluate import evaluate
from kdqat_cli.stages.export import export
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.folder import ABOUT
from kdqat_cli.tasks.models import student_record
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.task import label_config
from kdqat_cli.tasks.text.models import load_classifier, save_classifier
from kdqat_cli.tasks.text.schema import TextTask
from tests.exporters.students import frozen


@pytest.fixture(scope="module")
def task(tiny_task: Path) -> TextTask:
    return load_text_task(str(tiny_task / "tiny.yaml"))


@pytest.fixture(scope="module")
def student(task: TextTask, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("student") / "model"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, **label_config(task))
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    save_classifier(model, tokenizer, folder, Record(kind="teacher"))
    record = student_record("student", task, load_classifier(folder), load_recipe("clean"))
    save_classifier(frozen(model), tokenizer, folder, record)
    return str(folder)


# One format per engine; test_stock.py, test_onnx.py and test_gguf.py have the tests of each format.
@pytest.mark.parametrize(("format_name", "package"), [("dense", "torch"), ("onnx", "onnxscript")])
def test_an_export_is_compared_on_the_dev_rows(
    format_name: str, package: str, student: str, task: TextTask, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    out = tmp_path / "out"
    told = export(student, out, format_name=format_name, task=task)
    assert (told["format"], told["rows"]) == (format_name, 60)
    assert told["rows_differing"] <= 0.03 * 60
    assert 0 < told["largest_difference"] < 0.2
    assert told["student_score"] == evaluate(task, student, None, None)["score"]
    assert abs(told["score"] - told["student_score"]) < 2
    assert told["bytes"] == (out / "model" / catalogue.FORMATS[format_name].file).stat().st_size
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["rows_differing"] == told["rows_differing"]
    about = json.loads((out / "model" / ABOUT).read_text(encoding="utf-8"))
    assert (about["kind"], about["format"], about["task"]) == ("export", format_name, "tiny")
    assert about["sources"]["student"] is not None


def test_a_dense_export_is_an_ordinary_model(student: str, task: TextTask, tmp_path: Path) -> None:
    told = export(student, tmp_path, format_name="dense", task=task)
    assert evaluate(task, str(tmp_path), None, None)["score"] == told["score"]


def test_an_export_with_other_answers_is_not_kept(
    student: str, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def negated(model: Any, tokenizer: Any, folder: Path) -> None:
        model.classifier.weight.data.neg_()
        model.classifier.bias.data.neg_()
        dense.write(model, tokenizer, folder)
        model.classifier.weight.data.neg_()
        model.classifier.bias.data.neg_()

    spec = catalogue.FORMATS["dense"]
    monkeypatch.setitem(catalogue.FORMATS, "dense", catalogue.Format(negated, spec.logits, spec.file, "", ""))
    with pytest.raises(GateError, match=r"dense export of .* gives other answers than the student on 60 of 60 rows"):
        export(student, tmp_path / "out", format_name="dense", task=task)
    assert not (tmp_path / "out" / "model").exists()


def test_the_tokenizer_of_an_engine_is_compared(
    student: str, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are computed from the student's token ids, so they would not show a wrong vocabulary."""
    spec = catalogue.FORMATS["dense"]
    tokenizer = AutoTokenizer.from_pretrained(student)

    def with_unknown(share: float) -> Any:
        def tokens(folder: Path, texts: list[str]) -> list[list[int]]:
            assert (folder / spec.file).is_file()
            found: list[list[int]] = tokenizer(texts)["input_ids"]
            for ids in found[: round(share * len(found))]:
                ids[1] = tokenizer.unk_token_id
            return found

        return catalogue.Format(spec.write, spec.logits, spec.file, "", "", tokens=tokens)

    monkeypatch.setitem(catalogue.FORMATS, "dense", with_unknown(0.0))
    told = export(student, tmp_path / "right", format_name="dense", task=task)
    assert (told["texts"], told["texts_split_otherwise"]) == (60, 0)
    monkeypatch.setitem(catalogue.FORMATS, "dense", with_unknown(0.05))
    with pytest.raises(GateError, match=r"dense export of .* splits 3 of 60 texts into other tokens") as caught:
        export(student, tmp_path / "wrong", format_name="dense", task=task)
    assert caught.value.fix == "--format onnx"
    assert not (tmp_path / "wrong" / "model").exists()


def test_rows_are_padded_to_one_length(
    student: str, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of rows of similar length would hide an engine that ignores the mask."""
    spec = catalogue.FORMATS["dense"]
    seen: list[Any] = []

    def logits(folder: Path, batches: list[Any]) -> Any:
        seen.extend(batches)
        return spec.logits(folder, batches)

    monkeypatch.setitem(catalogue.FORMATS, "dense", catalogue.Format(spec.write, logits, spec.file, "", ""))
    export(student, tmp_path, format_name="dense", task=task)
    (width,) = {batch["attention_mask"].shape[1] for batch in seen}
    lengths = [length for batch in seen for length in batch["attention_mask"].sum(1)]
    assert max(lengths) == width
    assert sum(length < width for length in lengths) > 0.8 * len(lengths)


@pytest.mark.parametrize(("format_name", "package"), [("dense", "torch"), ("onnx", "onnxscript")])
def test_a_packed_folder_gives_the_same_bytes_as_its_student(
    format_name: str, package: str, student: str, task: TextTask, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    export(student, tmp_path / "packed")
    of_student = export(student, tmp_path / "one", format_name=format_name, task=task)
    of_packed = export(str(tmp_path / "packed"), tmp_path / "two", format_name=format_name, task=task)
    file = catalogue.FORMATS[format_name].file
    assert (tmp_path / "two/model" / file).read_bytes() == (tmp_path / "one/model" / file).read_bytes()
    assert of_packed["score"] == of_student["score"]
    about = json.loads((tmp_path / "two/model" / ABOUT).read_text(encoding="utf-8"))
    assert about["sources"]["packed"] == file_digest(tmp_path / "packed/model" / FILE_NAME)


def test_packed_needs_no_task(student: str, tmp_path: Path) -> None:
    assert export(student, tmp_path / "out")["bits_per_weight"] < 32


def test_other_formats_need_a_task(student: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checked on dev rows") as caught:
        export(student, tmp_path / "out", format_name="onnx")
    assert caught.value.fix == "kdqat export --format onnx --task TASK"


def test_half_is_refused_if_it_has_no_meaning(student: str, task: TextTask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--half has no meaning for --format onnx") as caught:
        export(student, tmp_path / "out", half=True, format_name="onnx", task=task)
    assert caught.value.fix == "--format packed, dense, hf, hf-compressed"


def test_a_missing_package_is_reported_before_any_work(
    student: str, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = catalogue.FORMATS["dense"]
    lacking = catalogue.Format(spec.write, spec.logits, spec.file, "", "", packages=("no-such-package",))
    monkeypatch.setitem(catalogue.FORMATS, "dense", lacking)
    with pytest.raises(MissingInputError, match="needs no-such-package"):
        export("no-such-folder", tmp_path / "out", format_name="dense", task=task)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_a_student_is_refused(tiny_encoder: Path, task: TextTask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a plain model"):
        export(str(tiny_encoder), tmp_path / "out", format_name="dense", task=task)
