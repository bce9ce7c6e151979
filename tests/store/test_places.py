"""The default places of results: other settings have other folders."""

from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.config import Params
from kdqat_cli.params import resolve
from kdqat_cli.store.places import student_run, ternary_folder, writer_of
from kdqat_cli.tasks.registry import load_task


def named(params: Params | None = None, recipe: str | None = None, sets: list[str] | None = None, **given: Any) -> str:
    params = params or Params()
    return student_run(load_task("rte"), params, recipe, resolve("rte", params, recipe, given, sets))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "map+output"),
        ({"distillation": {"loss": "map"}}, "map"),
        ({"quantization": {"weights": "int8"}}, "map+output-int8"),
        ({"quantization": {"weights": "ternary"}}, "map+output"),  # the value of the recipe
        ({"quantization": {"weights": "uniform"}}, "map+output-uniform"),
        ({"quantization": {"weights": "uniform", "bits": 2, "bucket": 64}}, "map+output-uniform-bits2-bucket64"),
        ({"quantization": {"activations": "fp32"}}, "map+output-activations-fp32"),
        ({"distillation": {"beta": 0.3}}, "map+output-beta0.3"),
        ({"distillation": {"beta": 3.0}}, "map+output-beta3"),
        ({"distillation": {"mix": "SM2"}}, "map+output-SM2"),
        ({"distillation": {"loss": "map", "temperature": 5.0}}, "map-temperature5"),
        ({"distillation": {"hidden_layers": [-1, -3]}}, "map+output-hidden_layers-1_-3"),
        ({"distillation": {"labels": 0.5, "beta": 0.3}, "quantization": {"weights": "int4"}},
         "map+output-int4-beta0.3-labels0.5"),
        ({"student": {"max_steps": 150, "precision": "bf16"}}, "map+output-max_steps150-precision-bf16"),
    ],
)  # fmt: skip
def test_a_student_is_named_by_its_differences_from_the_recipe(given: dict[str, Any], name: str) -> None:
    assert named(**given) == name


def test_fields_with_the_same_name_are_distinguished_by_their_sections() -> None:
    assert named(sets=["distillation.padding=counted"]) == "map+output-distillation.padding-counted"
    assert named(sets=["student.padding=max_length"]) == "map+output-student.padding-max_length"
    without = ["quantization.weights=uniform", "quantization.bucket=null"]
    assert named(sets=without) == "map+output-uniform-bucket-none"
    assert named(sets=["quantization.weight_clip=1.5"]) == "map+output-weight_clip1.5"
    assert named(recipe="paper", sets=["quantization.activation_clip=null"]) == "map+output-paper-activation_clip-none"


def test_another_recipe_is_named_if_it_changes_anything(tmp_path: Path) -> None:
    assert named(recipe="clean") == "map+output"
    assert named(recipe="paper") == "map+output-paper"
    assert named(Params(recipe="paper"), "paper") == "map+output"
    assert named(Params(recipe="paper"), "clean", distillation={"beta": 0.3}) == "map+output-clean-beta0.3"


def test_the_settings_of_params_yaml_give_the_plain_name() -> None:
    params = Params(settings={"rte": {"distillation": {"beta": 0.3}, "quantization": {"weights": "int8"}}})
    assert named(params) == "map+output"
    assert named(params, distillation={"beta": 0.1}) == "map+output-beta0.1"


def test_a_model_that_is_only_quantised_is_named_in_the_same_way() -> None:
    params = Params()

    def folder(**given: Any) -> str:
        return str(ternary_folder(load_task("rte"), params, None, resolve("rte", params, None, given)))

    assert folder() == "runs/rte/ternary"
    assert folder(quantization={"weights": "int8"}) == "runs/rte/ternary-int8"
    assert folder(student={"max_length": 64}) == "runs/rte/ternary-max_length64"
    assert folder(student={"epochs": 9.0}, distillation={"beta": 0.3}) == "runs/rte/ternary", "it trains nothing"


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("runs/rte/teacher", "kdqat finetune-teacher --task rte"),
        ("./runs/rte/teacher/model", "kdqat finetune-teacher --task rte"),
        ("runs/rte/ternary-int8", "kdqat quantize --task rte"),
        ("runs/rte/student/map-1", "kdqat distill --task rte"),
        ("runs/rte/packed/map-1", "kdqat export --task rte"),
        ("runs/rte/onnx/map-1", "kdqat export --task rte --format onnx"),
        ("runs/rte/other", None),
        ("runs/rte", None),
        ("elsewhere/teacher", None),
    ],
)
def test_a_place_names_the_command_that_writes_it(folder: str, command: str | None) -> None:
    assert writer_of(folder) == command
    assert writer_of(str(Path(folder).absolute())) == command
