"""The configuration of a run as types: the sections of a recipe, and params.yaml. params.py reads and merges them.

All errors of a file are reported at once. The docstring under a field is also its `--help`.
"""

import difflib
from collections.abc import Collection
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

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
"""Values of `--method`; stages/distill.py explains them."""

CodecName = Literal["auto", "trits", "fixed", "huffman"]
"""Values of `--codec`; codecs/catalogue.py explains them. `auto` takes the smallest for each weight."""

RoundingName = Literal["nearest", "stochastic"]
"""Roundings of uniform weights; quantizers/uniform.py explains them."""

StartName = Literal["quantiles", "uniform"]
"""First values of learned points; quantizers/points.py explains them."""

AllocationName = Literal["equal", "gradient", "budget"]
"""Rules that share learned points among tensors; quantizers/points.py explains them."""

GradientName = Literal["plain", "truncated", "complicated"]
"""Gradients of quantised weights; quantizers/weights.py explains them."""

OptimizerName = Literal["adamw", "bert-adam", "sgd", "plain-sgd"]
"""Optimisers; training/optimizers.py explains them."""

ScheduleName = Literal["linear", "plateau", "decay", "thirds"]
"""Schedules of the learning rate; training/schedule.py explains them."""

PerName = Literal["answer", "row"]
"""What a loss is a mean over; distillation/objective.py explains it."""

PrecisionName = Literal["fp32", "bf16"]
"""Values of `--precision`."""

MetricName = Literal["accuracy", "f1", "macro_f1", "micro_f1", "matthews", "pearson", "spearman"]
"""Metrics; tasks/metrics.py explains them."""

READ_BY: dict[str, tuple[LossName, ...]] = {
    "mix": ("map+output",),
    "beta": ("map+output",),
    "temperature": ("map", "map+output"),
}
"""Field of `Distillation` that only some losses use → those losses."""

READ_BY_WEIGHTS: dict[str, tuple[WeightsName, ...]] = {
    "bits": ("uniform", "points"),
    "bucket": ("uniform", "points"),
    "rounding": ("uniform",),
    "gradient": ("uniform",),
    "start": ("points",),
    "allocation": ("points",),
}
"""Field of `Quantization` that only some quantisers use → those quantisers."""

Device = Literal["cpu", "cuda"]
"""The device that computes a model."""
PaddingName = Literal["longest", "max_length"]
"""The length that rows are padded to."""
KeepsMoreName = Literal["longer", "first"]
"""Rules for which text of a truncated pair keeps one token more; see `Training.keeps_more`."""


class Section(BaseModel):
    """A group of settings: immutable, typed, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Training(Section):
    """How to train a model; the teacher and the student have one each."""

    epochs: float = Field(gt=0)
    """Number of passes over the training rows."""
    limit: int | None = Field(default=None, gt=0)
    """Largest number of training rows, for a smoke run, whose result is marked as not to be quoted; null: all rows."""
    max_steps: int | None = Field(gt=0)
    """Largest number of optimiser steps; null: as many as the epochs need."""
    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate."""
    schedule: ScheduleName = "linear"
    """Schedule of the learning rate: linear (a warmup, then down to 0); or plateau, decay, thirds, without a warmup."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0, not rounded to steps; then it falls linearly to 0."""
    batch_size: int = Field(gt=0)
    """Rows per optimiser step."""
    max_length: int | None = Field(gt=2)
    """Largest number of tokens of a row; longer rows are truncated; null: the length of the task."""
    keeps_more: KeepsMoreName
    """Text of a pair that keeps one token more if both are truncated: the longer (as tokenizers do), or the first."""
    padding: PaddingName
    """Padded length: the longest row of the batch (rows of similar length are batched together), or max_length."""
    optimizer: OptimizerName
    """adamw; bert-adam: no bias correction, epsilon 1e-6, and gradient_clip applied to each parameter; sgd: Nesterov
    momentum 0.9; or plain-sgd: no momentum."""
    weight_decay: float = Field(ge=0, lt=1)
    """Weight decay, multiplied by the learning rate at each step; not for biases and normalisation."""
    gradient_clip: float = Field(gt=0)
    """Largest norm of the gradient."""
    loss_per: PerName = "answer"
    """The mean in the loss: over answers (in a translation, over words), or over rows, with the sum over the answers of
    a row, as in the public code of Polino et al."""
    precision: PrecisionName
    """Precision of matrix products in a training; all other steps, and every evaluation, are in FP32."""
    eval_every: int | None = Field(gt=0)
    """Steps between two evaluations on dev; the best evaluation is kept. null: one evaluation per epoch."""
    eval_before_end: int = Field(ge=0)
    """With eval_every: the last evaluation is this many steps before the last step; the public code has 1."""
    keep_best: Literal["score", MetricName]
    """Dev metric whose best evaluation is kept: the score of the task, or one of its metrics."""


class TeacherTraining(Training):
    """How to train the teacher, or which existing model is the teacher."""

    model: str | None = None
    """A folder or hub id of a model that is fine-tuned for the task already; it becomes the teacher without more
    training; null: the teacher is trained."""


class Quantization(Section):
    """How the student is quantised."""

    weights: WeightsName
    """Quantiser of the weights; fp32: none."""
    weight_clip: float | None = Field(gt=0)
    """Latent weights are clamped to this magnitude and get no gradient beyond it; null: no clamp."""
    activations: ActivationsName
    """Quantiser of the activations; fp32: none."""
    activation_clip: float | None = Field(gt=0)
    """Activations are clamped to this magnitude and get no gradient beyond it; null: no clamp."""
    activation_scale: Literal["token", "batch"]
    """What shares one scale: a token (and head), or the whole batch tensor with its padding, as in the public code. In
    the input of a convolution, one scale per image replaces one per token."""
    vectors: bool = False
    """Whether to quantise biases and normalisation too, as in the public code of Polino et al.; not in encoders."""
    exempt: list[str] = []
    """Parameters that stay in full precision, by name with * and ?; first and last mean the first and last layer."""
    bits: int = Field(default=4, ge=1, le=8)
    """Bits of a level, for uniform weights and points; there are 2^bits levels."""
    bucket: int | None = Field(default=256, ge=1, lt=2**31)
    """Number of consecutive weights that share scale and offset, for uniform and points; null: the whole tensor."""
    rounding: RoundingName = "nearest"
    """Rounding of uniform weights: to the nearest level, or stochastic, which is correct on average."""
    gradient: GradientName = "plain"
    """Gradient of uniform weights: plain, truncated (0 outside ±1), or complicated (through the range)."""

    start: StartName = "quantiles"
    """First points: quantiles of the weights, or equally spaced."""
    allocation: AllocationName = "equal"
    """Number of points of each tensor: equal, by its gradient, or by its gradient within the bits (budget)."""

    @model_validator(mode="after")
    def _reads_all(self) -> "Quantization":
        if self.weights == "fp32" and self.activations != "fp32":
            raise PydanticCustomError("idle", "fp32 weights need fp32 activations: --activations fp32", {})
        for name, weights in READ_BY_WEIGHTS.items():
            if self.weights not in weights and getattr(self, name) != type(self).model_fields[name].default:
                names = {"name": name, "weights": self.weights}
                raise PydanticCustomError("idle", "quantization.{name} has no meaning for {weights} weights", names)
        return self

    @property
    def levels(self) -> Collection[int]:
        """The possible levels of the weights."""
        levels: Collection[int] = LEVELS[self.weights](self.bits)
        return levels


class Distillation(Section):
    """What the student learns from the teacher."""

    method: MethodName = "qat"
    """qat: weights are quantised at every step; qd: the same, with the name of Polino et al.; pm: weights are quantised
    after the training; dq: the weights do not change, and the points of the quantiser are trained."""
    loss: LossName
    """Attention loss, added to the losses of logits and hidden states; logits: only the loss of the logits."""
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    """Numbers, from 0, of the encoder layers that the student keeps and that are compared; null: all."""
    logits: float = Field(default=1.0, ge=0)
    """Weight of the loss of the logits."""
    logits_temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both models before softmax (multi-label: sigmoid); the loss is multiplied by its square."""
    logits_mean: Literal["rows", "classes"] = "rows"
    """The loss of the logits is a mean over rows, or over rows and classes, as in the public code of Polino et al."""
    mix: MixName
    """Form of map+output: SM1 is map + beta·output, SM2 is output + beta·map."""
    beta: float = Field(gt=0)
    """Weight of the second summand of map+output."""
    temperature: float = Field(gt=0)
    """Divides the scores of both models before softmax in the map loss."""
    map_floor: float | None = Field(gt=0, lt=1)
    """Smaller probabilities are raised to this in the map loss of both models, without a gradient; null: no floor."""
    score_cutoff: float | None = Field(lt=0)
    """Scores at or below this become 0 in the score loss of both models, without a gradient; null: no cutoff."""
    labels: float = Field(ge=0)
    """Weight of the loss on labels, besides the teacher; the runs of the paper have 0."""
    weak_teacher: Literal["refused", "allowed"] = "refused"
    """A teacher that is no better than a constant answer is refused, or allowed, as for a smoke run; the result is then
    marked as not to be quoted."""
    targets: Literal["references", "teacher"] = "references"
    """The targets of a translation student: the references of train, or the teacher's own translations (sequence-level
    distillation), which are kept in runs/TASK/taught."""
    hidden_layers: Literal["all"] | Annotated[list[int], Field(min_length=1)]
    """Hidden states that are compared: all, or numbers: 0 for the first layer's input, -1 for the last state."""
    padding: Literal["ignored", "counted"]
    """Whether padding is included in the squared errors and their means, as in the public code."""

    @field_validator("hidden_layers", mode="wrap")
    @classmethod
    def _one_error(cls, value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError as error:  # it has one error for each possible form of the value
            raise PydanticCustomError("layers", "Input should be all, or a list of layer numbers") from error


class Settings(Section):
    """The resolved settings of a run."""

    teacher: TeacherTraining
    student: Training
    quantization: Quantization
    distillation: Distillation
    network: dict[str, object] = {}
    """Fields of a new network's configuration, for example relu_logits; null: the network's own value."""

    @field_validator("network")
    @classmethod
    def _given(cls, value: dict[str, object]) -> dict[str, object]:
        return {name: field for name, field in value.items() if field is not None}


class Recipe(Settings):
    """A recipe file: settings for all tasks, and changes per task."""

    kinds: dict[str, dict[str, object]] = {}
    """Kind of task → changes to the sections above."""
    tasks: dict[str, dict[str, object]] = {}
    """Task → changes to the sections above; they override those of the task's kind."""


class Params(Section):
    """The content of params.yaml: what the pipeline runs."""

    kdqat_version: str | None = None
    """Version of kdqat that makes the results, as `kdqat init` writes it; another version is refused. null: any."""
    recipe: str = "clean"
    """Name of a packaged recipe, or path of a recipe file."""
    encoder: str = "embedded"
    """A hub id, a local folder, or `embedded` (the encoder that `kdqat fetch` downloads)."""
    data_dir: str | None = None
    """Folder of local task data in the published layouts; null: the data that `kdqat fetch` downloads, or the hub."""
    plugins: list[str] = []
    """Python files that add losses, quantisers, networks or formats; paths relative to the folder of params.yaml."""
    tasks: list[str] = []
    """Tasks of the pipeline: names that `kdqat ls tasks` lists, or of YAML files in the folder tasks/."""
    losses: list[LossName] = []
    """Attention losses of the pipeline."""
    seeds: list[int] = []
    """Seeds of the pipeline."""
    axes: dict[str, list[object]] = {}
    """Other values that a pipeline varies; only its dvc.yaml reads them."""
    published: str | None = None
    """A published table that `kdqat report` shows beside our results: a name that `kdqat ls published` lists."""
    settings: dict[str, dict[str, object]] = {}
    """Task → changes to the sections of the recipe."""


SectionT = TypeVar("SectionT", bound=BaseModel)


def parse(model: type[SectionT], value: object, where: str) -> SectionT:
    """Converts a value to a typed section.

    Args:
        model: the type of the section.
        value: keys and values from YAML.
        where: the name of the source in errors.

    Raises:
        ConfigError: the value has errors; the message has all of them with their places.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must have keys and values.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, detail, where) for detail in error.errors())) from error


def _explain(model: type[BaseModel], detail: ErrorDetails, where: str) -> str:
    place = f"{where}: {'.'.join(str(part) for part in detail['loc'])}"
    if where == OPTIONS:  # users know an option by its flag
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
    if not detail["loc"]:  # a rule over several keys, with a complete sentence
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}."
    given, quoted = detail["input"], ""
    if detail["type"] == "string_type" and isinstance(given, bool | int | float):
        quoted = f'; write it in quotes: "{given}"'
    return f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, but it is {shown(given)}{quoted}."


def _field_names(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _field_names(field.annotation)
    return names


def field_help(section: type[BaseModel], name: str) -> str:
    """The docstring of a field, for `--help`."""
    return section.model_fields[name].description or ""
