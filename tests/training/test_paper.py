"""A student with the recipe `paper`, from training to the packed form: scored as recorded, equal every time."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdqat_cli.config import Params, Settings
from kdqat_cli.params import resolve
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.parameters import quantized_layers
from kdqat_cli.record import BY_LENGTH, Batches, read_record
from kdqat_cli.stages.distill import distill
from kdqat_cli.stages.evaluate import evaluate
from kdqat_cli.stages.export import export
from kdqat_cli.stages.quantize import quantize
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.inference import predict_logits
from kdqat_cli.tasks.text.models import Classifier, load_classifier
from kdqat_cli.tasks.text.rows import TaskRows, task_rows
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.training.optimizers import BertAdam

STEPS, EVERY = 25, 10  # 200 rows in batches of 8
FILES = ("model/model.safetensors", "model/kdqat.json", "history.csv")


@pytest.fixture(scope="module")
def task(rated_task: Path) -> TextTask:
    return load_text_task(str(rated_task / "rated.yaml"))


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The recipe at the size of the tiny task."""
    student = {"epochs": 1.0, "batch_size": 8, "max_length": 24, "eval_every": EVERY, "learning_rate": 5e-4}
    return resolve("rated", Params(), recipe="paper", options={"student": student})


def trained(
    task: TextTask, teacher: Path, settings: Settings, out: Path, seed: int = 1, stop: int = 0
) -> dict[str, Any]:
    """Distils; the user stops it at step `stop`. `first` is the first step of this run."""
    steps: list[int] = []

    def progress(step: int, total: int, news: str) -> None:
        steps.append(step)
        if step == stop:
            raise KeyboardInterrupt

    return distill(task, str(teacher), settings, seed, None, out, progress) | {"first": steps[0]}


@pytest.fixture(scope="module")
def student(
    task: TextTask, settings: Settings, rated_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a student, and the result of `distill`."""
    out = tmp_path_factory.mktemp("paper") / "student"
    return out, trained(task, rated_teacher, settings, out)


@pytest.fixture(scope="module")
def packed(student: tuple[Path, dict[str, Any]]) -> Path:
    out = student[0].with_name("packed")
    export(str(student[0]), out)
    return out


def dev_rows(task: TextTask, loaded: Classifier, batches: Batches) -> TaskRows:
    return task_rows(task, "dev", None, loaded.tokenizer, loaded.record.row_length, batches)


def test_it_is_evaluated_as_it_was_scored(task: TextTask, student: tuple[Path, dict[str, Any]]) -> None:
    """To the last digit; in other batches the score is different."""
    folder, told = student
    loaded = load_classifier(folder)
    assert loaded.record.batches == Batches(size=8, pad_to=24, keeps_more="first")
    metrics = evaluate(task, str(folder), None, None)
    assert metrics["score"] == told["score"]
    assert metrics["score"] == json.loads((folder / "run.json").read_text(encoding="utf-8"))["score"]
    assert told["score"] > 50, "there is a score"
    others = [BY_LENGTH, Batches(size=8), Batches(size=4, pad_to=24), Batches(size=8, pad_to=32)]
    scores = [dev_rows(task, loaded, batches).score(loaded.model)["score"] for batches in others]
    assert told["score"] not in scores
    shorter = dev_rows(task, loaded, Batches(size=8, pad_to=20)).score(loaded.model)["score"]
    assert evaluate(task, str(folder), None, None, max_length=20)["score"] == shorter, "padded to the option's length"


def test_its_best_step_is_kept(student: tuple[Path, dict[str, Any]]) -> None:
    folder, told = student
    with (folder / "history.csv").open(encoding="utf-8") as file:
        scores = {int(row["step"]): float(row["score"]) for row in csv.DictReader(file) if row["score"]}
    assert list(scores) == [EVERY, 2 * EVERY, STEPS - 1]
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["steps"] == STEPS
    assert told["score"] == max(scores.values())


def test_before_a_training_it_is_scored_in_the_same_batches(
    task: TextTask, settings: Settings, rated_teacher: Path, tmp_path: Path
) -> None:
    told = quantize(task, str(rated_teacher), settings, None, tmp_path)
    assert evaluate(task, str(tmp_path), None, None)["score"] == told["score"]
    loaded = load_classifier(tmp_path)
    assert dev_rows(task, loaded, BY_LENGTH).score(loaded.model)["score"] != told["score"]


def test_a_plain_student_is_scored_in_batches_by_length(task: TextTask, rated_teacher: Path, tmp_path: Path) -> None:
    clean = resolve("rated", Params())
    told = quantize(task, str(rated_teacher), clean, None, tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.record.batches == BY_LENGTH
    assert evaluate(task, str(tmp_path), None, None)["score"] == told["score"]
    older = {key: value for key, value in loaded.record.to_json().items() if key != "batches"}
    assert read_record(older, "a record").batches == BY_LENGTH, "a model from before batches were recorded"


def test_its_packed_form_has_one_scale_per_token(
    task: TextTask, student: tuple[Path, dict[str, Any]], packed: Path
) -> None:
    """Served answers must not depend on batch mates."""
    source, loaded = load_classifier(student[0]), load_classifier(packed)
    assert loaded.record.kind == "packed"
    assert source.record.quantization is not None
    assert source.record.quantization.activation_scale == "batch"
    assert loaded.record.quantization == source.record.quantization.model_copy(update={"activation_scale": "token"})
    assert loaded.record.batches == Batches(keeps_more="first")
    layers = quantized_layers(loaded.model)
    linears = [layer for layer in layers.values() if isinstance(layer, QuantizedLinear)]
    assert len(linears) == 3 * 6 + 1
    for layer in linears:
        assert layer.quantizer is not None
        assert (layer.quantizer.scale, layer.quantizer.clip) == ("token", 2.5)
    for name, trained in quantized_layers(source.model).items():
        assert torch.equal(layers[name].weight, trained.weight)

    rows = dev_rows(task, loaded, BY_LENGTH)
    ways = [BY_LENGTH, Batches(size=8, pad_to=24), Batches(size=1), Batches(size=5, pad_to=32)]
    first, *others = (predict_logits(loaded.model.double(), rows.rows, rows.tokenizer, way) for way in ways)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-6, atol=1e-6)


def test_its_packed_form_has_almost_the_same_score(
    task: TextTask, student: tuple[Path, dict[str, Any]], packed: Path
) -> None:
    score = evaluate(task, str(packed), None, None)["score"]
    assert score != student[1]["score"]
    assert score == pytest.approx(student[1]["score"], abs=5)


def test_the_same_seed_gives_the_same_bits(
    task: TextTask, settings: Settings, rated_teacher: Path, student: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    again = trained(task, rated_teacher, settings, tmp_path / "again")
    told = student[1]
    assert (again["score"], again["teacher_score"]) == (told["score"], told["teacher_score"])
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (student[0] / name).read_bytes(), name
    trained(task, rated_teacher, settings, tmp_path / "other", seed=2)
    assert (tmp_path / "other" / FILES[0]).read_bytes() != (student[0] / FILES[0]).read_bytes()


def test_a_stopped_training_continues_to_the_same_bits(
    task: TextTask, settings: Settings, rated_teacher: Path, student: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The moments of BERT's Adam, the rate and the order of rows continue."""
    with pytest.raises(KeyboardInterrupt):
        trained(task, rated_teacher, settings, tmp_path, stop=EVERY + 3)
    assert not (tmp_path / "model").exists()
    (kept,) = tmp_path.glob(".kdqat-resume/*/checkpoint-*/optimizer.bin")
    assert kept.parent.name == f"checkpoint-{EVERY}"
    saved = torch.load(kept, weights_only=True)
    assert all(state.keys() == {"m", "v"} and state["v"].any() for state in saved["state"].values())
    assert saved["param_groups"][0].keys() >= BertAdam([torch.zeros(1)], 1.0, 1.0).defaults.keys()

    told = trained(task, rated_teacher, settings, tmp_path)
    assert told["first"] == EVERY, "it reports where it continues"
    assert told["score"] == student[1]["score"]
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (student[0] / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "model", "run.json"]
