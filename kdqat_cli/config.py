"""The configuration of a run: recipes, params.yaml and options, as one typed value.

Three layers are merged, the later winning: the recipe (a packaged YAML file or the user's own), the task's section
under `settings` in params.yaml, and the command line's options. All errors of a file are told at once. The
docstring under each field is also its `--help`.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.files import is_there
from kdqat_cli.names import LEVELS, LOSSES
from kdqat_cli.plugins import load_plugins
from kdqat_cli.yaml12 import parse_yaml, read_text, read_yaml

PARAMS_FILE = Path("params.yaml")
OPTIONS = "options"
_PACKAGED = Path(__file__).parent / "recipes"

LossName = Annotated[str, BeforeValidator(LOSSES.checked)]
"""Values of `--loss`."""

MixName = Literal["SM1", "SM2"]
"""Forms of the mix of losses in Eq. 8."""


WeightsName = Annotated[str, BeforeValidator(LEVELS.checked)]
"""Values of `--weights`."""

ActivationsName = Literal["int8", "fp32"]
"""Values of `--activations`."""

OptimizerName = Literal["adamw", "bert-adam"]
"""Optimisers; distillation/optimizers.py says what each is."""

PrecisionName = Literal["fp32", "bf16"]
"""Values of `--precision`."""

MetricName = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]
"""Metrics; tasks/metrics.py says what each is."""

READ_BY: dict[str, tuple[LossName, ...]] = {
    "mix": ("map+output",),
    "beta": ("map+output",),
    "temperature": ("map", "map+output"),
}
"""Fields of `Distillation` that only some losses read, and these losses."""

Device = Literal["cpu", "cuda"]
"""Where a model is computed."""
PaddingName = Literal["longest", "max_length"]
"""What rows are padded to."""
KeepsMoreName = Literal["longer", "first"]
"""Rules for the odd token of a cut pair; stages/inference.py says what each is."""


class Section(BaseModel):
    """A group of settings: immutable, typed, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Training(Section):
    """How a model is trained; the teacher and the student have one each."""

    epochs: float = Field(gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(gt=0)
    """Optimiser steps at most; null: as many as the epochs need."""
    learning_rate: float = Field(gt=0, lt=1)
    """Peak learning rate."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0, not in whole steps; then it falls linearly to 0."""
    batch_size: int = Field(gt=0)
    """Rows per optimiser step."""
    max_length: int | None = Field(gt=2)
    """Tokens a row is cut to; null: the task's own length."""
    keeps_more: KeepsMoreName
    """Text of a pair that keeps one token more where both are cut: the longer (the tokenizer's rule), or the first."""
    padding: PaddingName
    """What rows are padded to: the longest of their batch, where rows of like length meet, or max_length always."""
    optimizer: OptimizerName
    """adamw, or bert-adam: no bias correction, epsilon 1e-6, and gradient_clip for each parameter alone."""
    weight_decay: float = Field(ge=0, lt=1)
    """Weight decay, per step and learning rate; not on biases and normalisation."""
    gradient_clip: float = Field(gt=0)
    """Largest norm of the gradient."""
    precision: PrecisionName
    """Precision of a training's matrix products; what lies between them, and every evaluation, is FP32."""
    eval_every: int | None = Field(gt=0)
    """Steps between two evaluations on dev, of which the best is kept; null: once an epoch."""
    eval_before_end: int = Field(ge=0)
    """With eval_every: the last evaluation is this many steps before the last step; the public code has 1."""
    keep_best: Literal["score", MetricName]
    """Dev metric whose best evaluation is kept: the task's score, or one of its metrics."""


class Quantization(Section):
    """What the student's numbers may be."""

    weights: WeightsName
    """Quantiser of the weights."""
    weight_clip: float | None = Field(gt=0)
    """Latent weights are clamped to this magnitude, with no gradient beyond it; null: no clamp."""
    activations: ActivationsName
    """Quantiser of the activations; fp32: none."""
    activation_clip: float | None = Field(gt=0)
    """Activations are clamped to this magnitude, with no gradient beyond it; null: no clamp."""
    activation_scale: Literal["token", "batch"]
    """What shares one scale: a token (and head), or the whole batch tensor with its padding, as in the public code."""


class Distillation(Section):
    """What the student learns from the teacher."""

    loss: LossName
    """Attention loss; the logits and hidden-state losses are always on."""
    mix: MixName
    """Form of map+output: SM1 is map + beta·output, SM2 is output + beta·map."""
    beta: float = Field(gt=0)
    """Weight of the second summand of map+output."""
    temperature: float = Field(gt=0)
    """Divides the scores before softmax in the map loss, on both sides."""
    map_floor: float | None = Field(gt=0, lt=1)
    """Smaller probabilities count as this in the map loss, on both sides and with no gradient; null: none do."""
    score_cutoff: float | None = Field(lt=0)
    """Scores at or below this count as 0 in the score loss, on both sides and with no gradient; null: none do."""
    labels: float = Field(ge=0)
    """Weight of the task's labels beside the teacher; the paper's runs have 0."""
    hidden_layers: Literal["all"] | Annotated[list[int], Field(min_length=1)]
    """Hidden states that are compared: all, or numbers, 0 being the first layer's input and -1 the last state."""
    padding: Literal["ignored", "counted"]
    """Whether padding takes part in the squared errors and their means, as it does in the public code."""

    @field_validator("hidden_layers", mode="wrap")
    @classmethod
    def _told_once(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:  # one for each form that the value might have had
            raise PydanticCustomError("layers", "Input should be all, or a list of layer numbers") from error


class Settings(Section):
    """Everything that a stage needs to know of a run, resolved."""

    teacher: Training
    student: Training
    quantization: Quantization
    distillation: Distillation


class Recipe(Settings):
    """A recipe file: settings for every task, and what differs per task."""

    tasks: dict[str, dict[str, Any]] = {}
    """Per task: any of the sections above, in part."""


class Params(Section):
    """params.yaml: what the pipeline runs."""

    recipe: str = "clean"
    """A packaged recipe's name, or the path of a recipe file."""
    encoder: str = "embedded"
    """A hub id, a local folder, or `embedded` (what `kdqat fetch` brings)."""
    data_dir: str | None = None
    """Folder of local task data in the published layouts; null: what `kdqat fetch` brings, or the hub."""
    plugins: list[str] = []
    """Python files that add losses, quantisers, networks or formats; paths from the folder of params.yaml."""
    tasks: list[str] = []
    """Tasks of the pipeline: names that `kdqat ls tasks` lists, or of YAML files in the folder tasks/."""
    losses: list[LossName] = []
    """Attention losses of the pipeline."""
    seeds: list[int] = []
    """Seeds of the pipeline."""
    axes: dict[str, list[Any]] = {}
    """What else a pipeline varies; its dvc.yaml alone reads it."""
    published: str | None = None
    """A published table whose rows `kdqat report` shows beside ours: a name that `kdqat ls published` lists."""
    settings: dict[str, dict[str, Any]] = {}
    """Per task: changes to the recipe's sections."""


SectionT = TypeVar("SectionT", bound=BaseModel)


def parse(model: type[SectionT], value: Any, where: str) -> SectionT:
    """`value` as a typed section.

    Args:
        model: the section's type.
        value: keys and values, as YAML gives them.
        where: what the errors call the source.

    Raises:
        ConfigError: with every error of the value at once, each with its place.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold keys and values.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, detail, where) for detail in error.errors())) from error


def _explain(model: type[BaseModel], detail: Any, where: str) -> str:
    place = f"{where}: {'.'.join(str(part) for part in detail['loc'])}"
    if where == OPTIONS:  # an option is known to its user by its flag
        place = f"--{str(detail['loc'][-1]).replace('_', '-')}"
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(detail["loc"][-1]), _field_names(model), n=1)
        return f"{place} is not a known key" + (f"; did you mean {close[0]}?" if close else ".")
    if detail["type"] == "missing":
        return f"{place} is missing."
    if not detail["loc"]:  # a rule over several keys; its sentence is whole
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}."
    given, quoted = detail["input"], ""
    if detail["type"] == "string_type" and isinstance(given, bool | int | float):
        quoted = f'; in quotes it is one: "{given}"'
    return f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, but it is {shown(given)}{quoted}."


def _field_names(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _field_names(field.annotation)
    return names


def field_help(section: type[BaseModel], name: str) -> str:
    """The docstring of one field, for `--help`."""
    return section.model_fields[name].description or ""


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def read_recipe(name: str) -> str:
    """The text of a packaged recipe by name, or of a recipe file by path.

    Raises:
        ConfigError: an unknown name.
        MissingInputError: no such file.
    """
    return read_text(_recipe_path(name))


def load_recipe(name: str) -> Recipe:
    """A packaged recipe by name, or a recipe file by path.

    Raises:
        ConfigError: an unknown name, or errors in the file.
        MissingInputError: no such file.
    """
    recipe = parse(Recipe, read_yaml(_recipe_path(name)), f"recipe {name}")
    for task, changes in recipe.tasks.items():
        parse(Settings, _merge(recipe.model_dump(exclude={"tasks"}), changes), f"recipe {name}: tasks.{task}")
    return recipe


def _recipe_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in recipe_names():
        raise ConfigError(
            f"There is no recipe {name!r}; packaged are {', '.join(recipe_names())}, and a path must end in .yaml.",
            f"kdqat recipe {recipe_names()[0]} > mine.yaml",
        )
    return _PACKAGED / f"{name}.yaml"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """params.yaml of the working folder, or the defaults where there is none; its plugins are loaded.

    Raises:
        ConfigError: with every error of the file at once, or a plugin fails.
        MissingInputError: it is there, but cannot be read; or a plugin is not there.
    """
    use_plugins(path)  # first: the names that they add are values of other keys
    return parse(Params, read_yaml(path) or {}, str(path)) if is_there(path) else Params()


def use_plugins(path: Path = PARAMS_FILE) -> None:
    """Loads the plugins that params.yaml names, if it is there; its other keys may be anything.

    Raises:
        ConfigError: a plugin fails.
        MissingInputError: params.yaml cannot be read, or a plugin is not there.
    """
    value = read_yaml(path) if is_there(path) else None
    plugins = value.get("plugins") if isinstance(value, dict) else None
    if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins):
        load_plugins(plugins, path.parent, str(path))


def resolve(
    task: str,
    params: Params,
    recipe: str | None = None,
    options: dict[str, Any] | None = None,
    assignments: list[str] | None = None,
) -> Settings:
    """The settings of one task: recipe, then params.yaml, then the command line's options.

    Args:
        task: the task's name.
        params: params.yaml.
        recipe: a recipe that replaces the one of params.yaml.
        options: changes as nested dictionaries, e.g. {"student": {"epochs": 1.0}}; null values are left out.
        assignments: changes as text, e.g. "student.epochs=1"; they come last, and a value may be null.

    Raises:
        ConfigError: an unknown recipe, or settings of a wrong type or range.
    """
    base = load_recipe(recipe or params.recipe)
    merged = _merge(base.model_dump(exclude={"tasks"}), base.tasks.get(task, {}))
    merged = _merge(merged, params.settings.get(task, {}))
    where = f"{PARAMS_FILE}: settings.{task}"
    parse(Settings, merged, where)
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in (options or {}).items()
    }
    merged = parse(Settings, _merge(merged, given), OPTIONS).model_dump()
    for assignment in assignments or []:
        merged = _merge(merged, _assigned(assignment))
    return parse(Settings, merged, "--set")


def _assigned(assignment: str) -> dict[str, Any]:
    place, equals, value = assignment.partition("=")
    section, dot, name = place.partition(".")
    if not (equals and dot):
        fix = "--set quantization.activation_scale=token"
        raise ConfigError(f"--set takes SECTION.FIELD=VALUE, not {assignment!r}.", fix)
    return {section: {name: parse_yaml(value, f"--set {place}")}}


def _merge(base: dict[str, Any], changes: Any) -> dict[str, Any]:
    if not isinstance(changes, dict):
        return base
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
