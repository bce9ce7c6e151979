"""The configuration of a run as types: the sections of a recipe, and params.yaml; params.py reads and merges them.

All errors of a file are told at once. The docstring under each field is also its `--help`.
"""

import difflib
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.names import LEVELS, LOSSES

OPTIONS = "options"

LossName = Annotated[str, BeforeValidator(LOSSES.checked)]
"""Values of `--loss`."""

MixName = Literal["SM1", "SM2"]
"""Forms of the mix of losses in Eq. 8."""


WeightsName = Annotated[str, BeforeValidator(LEVELS.checked)]
"""Values of `--weights`."""

ActivationsName = Literal["int8", "fp32"]
"""Values of `--activations`."""

MethodName = Literal["qat", "qd", "pm", "dq"]
"""Values of `--method`; stages/distill.py says what each is."""

CodecName = Literal["auto", "trits", "fixed", "huffman"]
"""Values of `--codec`; codecs/catalogue.py says what each is, `auto` being the smallest of them for each weight."""

RoundingName = Literal["nearest", "stochastic"]
"""Roundings of uniform weights; quantizers/uniform.py says what each is."""

StartName = Literal["quantiles", "uniform"]
"""Where learned points begin; quantizers/points.py says what each is."""

AllocationName = Literal["equal", "gradient", "budget"]
"""How tensors share learned points; quantizers/points.py says what each is."""

GradientName = Literal["plain", "truncated", "complicated"]
"""Gradients of quantised weights; quantizers/weights.py says what each is."""

OptimizerName = Literal["adamw", "bert-adam", "sgd", "plain-sgd"]
"""Optimisers; training/optimizers.py says what each is."""

ScheduleName = Literal["linear", "plateau", "decay", "thirds"]
"""Courses of the learning rate; training/schedule.py says what each is."""

PerName = Literal["answer", "row"]
"""What a loss is a mean over; distillation/objective.py says what each is."""

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

READ_BY_WEIGHTS: dict[str, tuple[WeightsName, ...]] = {
    "bits": ("uniform", "points"),
    "bucket": ("uniform", "points"),
    "rounding": ("uniform",),
    "gradient": ("uniform",),
    "start": ("points",),
    "allocation": ("points",),
}
"""Fields of `Quantization` that only some weights read, and these weights."""

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
    limit: int | None = Field(default=None, gt=0)
    """Rows of train at most, the first ones, for a smoke run, whose result is marked as not to be quoted; null: all."""
    max_steps: int | None = Field(gt=0)
    """Optimiser steps at most; null: as many as the epochs need."""
    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate."""
    schedule: ScheduleName = "linear"
    """Course of the learning rate: linear (after warmup, down to 0); or plateau, decay, thirds, without a warmup."""
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
    """adamw; bert-adam: no bias correction, epsilon 1e-6, and gradient_clip for each parameter alone; sgd: with
    Nesterov's momentum of 0.9; or plain-sgd: without momentum."""
    weight_decay: float = Field(ge=0, lt=1)
    """Weight decay, per step and learning rate; not on biases and normalisation."""
    gradient_clip: float = Field(gt=0)
    """Largest norm of the gradient."""
    loss_per: PerName = "answer"
    """What the loss is a mean over: answers, which are the words of a translation; or rows, each with the sum over its
    answers, as in the public code of Polino et al."""
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
    """Quantiser of the weights; fp32: none."""
    weight_clip: float | None = Field(gt=0)
    """Latent weights are clamped to this magnitude, with no gradient beyond it; null: no clamp."""
    activations: ActivationsName
    """Quantiser of the activations; fp32: none."""
    activation_clip: float | None = Field(gt=0)
    """Activations are clamped to this magnitude, with no gradient beyond it; null: no clamp."""
    activation_scale: Literal["token", "batch"]
    """What shares one scale: a token (and head), or the whole batch tensor with its padding, as in the public code.
    Of a convolution's input an image takes the place of a token."""
    vectors: bool = False
    """Whether biases and normalisation are quantised as well, as Polino et al.'s public code does; not of encoders."""
    exempt: list[str] = []
    """Parameters that stay in full precision, by name with * and ?; first and last name a network's outer layers."""
    bits: int = Field(default=4, ge=1, le=8)
    """Bits of a level of uniform weights and of points; there are 2^bits levels."""
    bucket: int | None = Field(default=256, ge=1, lt=2**31)
    """Consecutive weights, uniform or at points, that share scale and offset; null: the whole tensor does."""
    rounding: RoundingName = "nearest"
    """Rounding of uniform weights: to the nearest level, or stochastic, which is right on average."""
    gradient: GradientName = "plain"
    """Gradient of uniform weights: plain, truncated (to weights within ±1), or complicated (through the range)."""

    start: StartName = "quantiles"
    """Where points begin: at quantiles of the weights, or equally spaced."""
    allocation: AllocationName = "equal"
    """Points of each tensor: equal, by its gradient, or by its gradient within the bits asked for (budget)."""

    @model_validator(mode="after")
    def _reads_all(self) -> "Quantization":
        if self.weights == "fp32" and self.activations != "fp32":
            raise PydanticCustomError("idle", "fp32 weights take fp32 activations: --activations fp32", {})
        for name, weights in READ_BY_WEIGHTS.items():
            if self.weights not in weights and getattr(self, name) != type(self).model_fields[name].default:
                names = {"name": name, "weights": self.weights}
                raise PydanticCustomError("idle", "quantization.{name} has no meaning for {weights} weights", names)
        return self

    @property
    def levels(self) -> Collection[int]:
        """The integers that the levels of the weights are among."""
        levels: Collection[int] = LEVELS[self.weights](self.bits)
        return levels


class Distillation(Section):
    """What the student learns from the teacher."""

    method: MethodName = "qat"
    """qat: weights are quantised at every step; qd: the same, as Polino et al. call it; pm: after the training; dq: the
    weights stay, and the points at which they are quantised are trained."""
    loss: LossName
    """Attention loss beside those of logits and hidden states; logits: that of the logits alone."""
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    """Layers of an encoder, from 0, that the student keeps of its teacher and is compared in; null: all."""
    logits: float = Field(default=1.0, ge=0)
    """Weight of the loss of the logits."""
    logits_temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both sides before their softmax; the loss is then multiplied by its square."""
    logits_mean: Literal["rows", "classes"] = "rows"
    """What the loss of the logits is the mean of: rows, or rows and classes, as in the public code of Polino et al."""
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
    weak_teacher: Literal["refused", "allowed"] = "refused"
    """A teacher that is no better than a constant answer; where it is allowed, as in a smoke run, the result is marked
    as not to be quoted."""
    targets: Literal["references", "teacher"] = "references"
    """Of a translation, what the student learns to write: the references of train, or the teacher's own translations
    (sequence-level distillation), which are kept in runs/TASK/taught."""
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
    network: dict[str, Any] = {}
    """Fields of a new network's configuration, for example relu_logits; null: the network's own value."""

    @field_validator("network")
    @classmethod
    def _given(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {name: field for name, field in value.items() if field is not None}


class Recipe(Settings):
    """A recipe file: settings for every task, and what differs per task."""

    kinds: dict[str, dict[str, Any]] = {}
    """Per kind of task: any of the sections above, in part."""
    tasks: dict[str, dict[str, Any]] = {}
    """Per task: any of the sections above, in part; it wins over that of the task's kind."""


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
    if detail["type"] == "idle":
        names = detail.get("ctx", {})
        if where == OPTIONS and names:
            return f"--{names['name']} has no meaning for --weights {names['weights']}."
        return f"{where}: {detail['msg']}."
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
