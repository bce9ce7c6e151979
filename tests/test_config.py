"""Recipes, params.yaml and options: merged in order, typed, and all errors at once."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kdqat_cli.config import Distillation, Params, Quantization, Recipe, Section, Settings, Training, field_help, parse
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.params import load_params, load_recipe, read_recipe, recipe_names, resolve

ROOT = Path(__file__).parent.parent


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def recipe_with(tmp_path: Path, tasks: str) -> str:
    """The path of a copy of the packaged recipe with other `tasks`."""
    text = read_recipe("clean")
    assert "tasks: {}" in text
    return str(write(tmp_path / "mine.yaml", text.replace("tasks: {}", f"tasks: {tasks}")))


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    settings = resolve("rte", Params(recipe=name))
    assert settings.model_dump() == recipe.model_dump(exclude={"kinds", "tasks"}) or "rte" in recipe.tasks
    assert read_recipe(name).startswith("#"), "a recipe begins with a description"


def test_the_values_of_the_recipe_clean_have_the_right_types() -> None:
    """A YAML 1.1 reader takes numbers like 2e-5 for strings."""
    recipe = load_recipe("clean")
    assert (recipe.teacher.learning_rate, recipe.student.learning_rate) == (5e-5, 1e-4)
    assert recipe.quantization == Quantization(
        weights="ternary", weight_clip=2.5, activations="int8", activation_clip=None, activation_scale="token"
    )
    assert recipe.distillation == Distillation(
        loss="map+output",
        mix="SM1",
        beta=0.5,
        temperature=1.0,
        map_floor=None,
        score_cutoff=None,
        labels=0.0,
        hidden_layers="all",
        padding="ignored",
    )
    for training in (recipe.teacher, recipe.student):
        assert (training.padding, training.optimizer) == ("longest", "adamw")


def test_the_params_file_of_the_repository_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = load_params()
    assert params.tasks
    for task in params.tasks:
        needed = {name for name, field in Settings.model_fields.items() if field.is_required()}
        assert params.settings[task].keys() == needed, "DVC stops at a parameter that is missing"
        resolve(task, params)


def test_no_params_file_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_params() == Params()
    write(tmp_path / "params.yaml", "# nothing\n")
    assert load_params() == Params()
    write(tmp_path / "params.yaml", "seeds: [1, 2]\n")
    assert load_params() == Params(seeds=[1, 2])


def test_later_layers_have_precedence(tmp_path: Path) -> None:
    """Recipe < task in the recipe < task in params.yaml < options; each changes one field of one section."""
    recipe = recipe_with(tmp_path, "{rte: {student: {epochs: 10, batch_size: 11, warmup: 0.2, weight_decay: 0.3}}}")
    params = Params(
        recipe=recipe, settings={"rte": {"student": {"batch_size": 12, "warmup": 0.4, "weight_decay": 0.5}}}
    )
    options: dict[str, dict[str, object]] = {
        "student": {"warmup": 0.6, "weight_decay": None},
        "distillation": {"beta": 0.7},
    }
    plain, full = load_recipe("clean"), resolve("rte", params, options=options)
    expected: dict[str, Any] = plain.model_dump(exclude={"kinds", "tasks"})
    expected["student"] |= {"epochs": 10.0, "batch_size": 12, "warmup": 0.6, "weight_decay": 0.5}
    expected["distillation"]["beta"] = 0.7
    assert full.model_dump() == expected
    assert resolve("cola", params).model_dump() == plain.model_dump(exclude={"kinds", "tasks"}), (
        "another task is not changed"
    )


def test_a_recipe_option_replaces_the_recipe_of_params(tmp_path: Path) -> None:
    mine = recipe_with(tmp_path, "{rte: {distillation: {beta: 0.1}}}")
    assert resolve("rte", Params(recipe="clean"), recipe=mine).distillation.beta == 0.1
    assert resolve("rte", Params(recipe=mine), recipe="clean").distillation.beta == 0.5


def test_resolving_changes_neither_recipe_nor_params() -> None:
    params = Params(settings={"rte": {"student": {"epochs": 9}}})
    before = params.model_dump()
    first = resolve("rte", params, options={"student": {"epochs": 1.0}})
    assert params.model_dump() == before
    assert resolve("rte", params).student.epochs == 9
    assert first.student.epochs == 1


def test_null_is_a_value_in_a_file() -> None:
    params = Params(settings={"rte": {"quantization": {"weight_clip": None, "activation_clip": 1.5}}})
    quantization = resolve("rte", params).quantization
    assert load_recipe("clean").quantization.weight_clip is not None
    assert (quantization.weight_clip, quantization.activation_clip) == (None, 1.5)


WRONG = """\
teacher: {epochs: 0, max_steps: null, learning_rate: fast, warmup: 0.1, batch_size: 1.5, max_length: null,
          padding: widest, optimizer: nadam, weight_decay: 0.01, gradient_clip: 1.0, precision: fp16, eval_every: null,
          keeps_more: first, eval_before_end: 0, keep_best: score, lerning_rate: 1}
student: 3
quantization: {weights: binary, weight_clip: -1, activations: 4, activation_clip: null, activation_scale: row}
distillation: {loss: maps, mix: SM3, temperature: 0.0, map_floor: null, score_cutoff: null, labels: -1,
               hidden_layers: [], padding: some}
tasks: []
colour: red
"""


WRONG_PLACES = [
    "colour",
    "distillation.beta",
    "distillation.hidden_layers",
    "distillation.labels",
    "distillation.loss",
    "distillation.mix",
    "distillation.padding",
    "distillation.temperature",
    "quantization.activation_scale",
    "quantization.activations",
    "quantization.weight_clip",
    "quantization.weights",
    "student",
    "tasks",
    "teacher.batch_size",
    "teacher.epochs",
    "teacher.learning_rate",
    "teacher.lerning_rate",
    "teacher.optimizer",
    "teacher.padding",
    "teacher.precision",
]


def test_all_errors_are_reported_at_once_with_their_places(tmp_path: Path) -> None:
    path = str(write(tmp_path / "wrong.yaml", WRONG))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    lines = caught.value.sentence.splitlines()
    assert all(line.startswith(f"recipe {path}: ") for line in lines)
    errors = [line.removeprefix(f"recipe {path}: ") for line in lines]
    places = [error.split(":")[0].split(" is ")[0] for error in errors]
    assert sorted(places) == WRONG_PLACES
    told = dict(zip(places, errors, strict=True))
    assert told["teacher.lerning_rate"] == "teacher.lerning_rate is not a known key; did you mean learning_rate?"
    assert told["colour"] == "colour is not a known key."
    assert told["distillation.beta"] == "distillation.beta is missing."
    assert "greater than 0" in told["teacher.epochs"]
    assert told["teacher.epochs"].endswith("but it is 0.")
    assert "'fast'" in told["teacher.learning_rate"]
    assert "'score', 'map', 'output', 'mha', 'map+output' or 'logits'" in told["distillation.loss"]
    assert told["distillation.hidden_layers"].endswith("should be all, or a list of layer numbers, but it is [].")
    assert "'ternary', 'int4', 'int8', 'uniform' or 'points'" in told["quantization.weights"]
    assert "'adamw', 'bert-adam', 'sgd' or 'plain-sgd'" in told["teacher.optimizer"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("student", {"epochs": "3"}),
        ("student", {"epochs": True}),
        ("student", {"epochs": float("nan")}),
        ("student", {"batch_size": 32.0}),
        ("student", {"batch_size": None}),
        ("student", {"learning_rate": 1.5}),
        ("student", {"warmup": 1.0}),
        ("student", {"max_length": 2}),
        ("student", {"eval_every": 0}),
        ("student", {"eval_before_end": -1}),
        ("student", {"keep_best": "loss"}),
        ("student", {"keeps_more": "second"}),
        ("distillation", {"map_floor": 0.0}),
        ("distillation", {"map_floor": 1.0}),
        ("distillation", {"score_cutoff": 0.0}),
        ("quantization", {"weights": None}),
        ("student", {"padding": 64}),
        ("student", {"optimizer": "Adam"}),
        ("quantization", {"activations": 8}),
        ("quantization", {"activations": None}),
        ("quantization", {"activation_scale": "tensor"}),
        ("quantization", {"activation_clip": 0}),
        ("distillation", {"loss": ["map"]}),
        ("distillation", {"beta": "half"}),
        ("distillation", {"padding": True}),
        ("distillation", {"hidden_layers": None}),
        ("distillation", {"hidden_layers": []}),
        ("distillation", {"hidden_layers": "top"}),
        ("distillation", {"hidden_layers": -1}),
        ("distillation", {"hidden_layers": [True]}),
        ("distillation", {"hidden_layers": ["1"]}),
    ],
)
def test_wrong_values_are_refused(section: str, values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConfigError, match=rf"params\.yaml: settings\.rte: {section}\.{name}: .*but it is") as caught:
        resolve("rte", Params(settings={"rte": {section: values}}))
    assert "\n" not in caught.value.sentence, "one sentence per fault"
    if values[name] is not None:
        with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')}: .*but it is"):
            resolve("rte", Params(), options={section: values})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"studnt": {}}, r"studnt is not a known key; did you mean student\?"),
        ({"student": {"epoch": 1}}, r"student\.epoch is not a known key; did you mean epochs\?"),
        (
            {"quantization": {"wieght_clip": 1}},
            r"quantization\.wieght_clip is not a known key; did you mean weight_clip\?",
        ),
        ({"student": {"zzz": 1}}, r"student\.zzz is not a known key\.$"),
        ({"student": 3}, r"student: "),
    ],
)
def test_unknown_keys_are_reported_with_the_nearest(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"params\.yaml: settings\.rte: {sentence}"):
        resolve("rte", Params(settings={"rte": changes}))
    recipe = recipe_with(tmp_path, f"{{rte: {changes}}}")
    with pytest.raises(ConfigError, match=rf"tasks\.rte: {sentence}"):
        load_recipe(recipe)


def test_all_errors_of_params_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "params.yaml", "recpe: clean\ntasks: movie\nlosses: [map, maps]\nseeds: ['1', 2]\n")
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    lines = caught.value.sentence.splitlines()
    assert len(lines) == 4
    for place in ("recpe is not a known key; did you mean recipe?", "tasks: ", "losses.1: ", "seeds.0: "):
        assert any(line.startswith(f"{path}: {place}") for line in lines), place


@pytest.mark.parametrize("text", ["- a\n- b\n", "clean\n", "3\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "file.yaml", text)
    with pytest.raises(ConfigError, match="must have keys and values"):
        load_params(path)
    with pytest.raises(ConfigError, match="must have keys and values"):
        load_recipe(str(path))


def test_the_error_about_an_unknown_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'cleen'; packaged are .*clean") as caught:
        load_recipe("cleen")
    assert caught.value.fix == f"kdqat recipe {recipe_names()[0]} > mine.yaml"
    with pytest.raises(MissingInputError, match=r"absent\.yaml"):
        load_recipe("absent.yaml")


def test_settings_are_immutable() -> None:
    settings = resolve("rte", Params())
    with pytest.raises(ValidationError, match="frozen"):
        settings.student.epochs = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        settings.student = settings.teacher


@pytest.mark.parametrize("section", [Training, Quantization, Distillation, Recipe, Params])
def test_every_field_has_a_docstring(section: type[Section]) -> None:
    for name in section.model_fields:
        if section is Recipe and name in Settings.model_fields:
            continue  # groups, whose fields have docstrings
        assert field_help(section, name).endswith("."), name


def test_parse_names_the_source_of_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^kdqat\.json: quantization must have keys and values"):
        parse(Quantization, None, "kdqat.json: quantization")
    with pytest.raises(ConfigError, match=r"^here: weights is missing\.\nhere: weight_clip is missing\."):
        parse(Quantization, {}, "here")
