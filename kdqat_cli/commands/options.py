"""The options that several commands share; a configuration field's docstring is its option's help."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli.config import (
    READ_BY,
    READ_BY_WEIGHTS,
    ActivationsName,
    Device,
    Distillation,
    MethodName,
    MixName,
    Params,
    PrecisionName,
    Quantization,
    Training,
    field_help,
)
from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.names import FORMATS, LEVELS, LOSSES
from kdqat_cli.native import MOST_THREADS

TaskOption = Annotated[
    str, typer.Option("--task", help="Task: a name that `kdqat ls tasks` lists, or the path of a task file.")
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help=field_help(Params, "encoder") + " [default: params.yaml's, else embedded]"),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network", help="Network that is trained from random weights: a name that `kdqat ls networks` lists."
    ),
]
MethodOption = Annotated[MethodName | None, typer.Option("--method", help=field_help(Distillation, "method"))]
TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="Teacher: folder or hub id. [default: runs/TASK/teacher]")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the results. [default: under runs/TASK]")]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Replace a finished result of other settings, and remove checkpoints of others."),
]
DataDirOption = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        help="Folder of local task data in the published layouts. "
        "[default: the variable KDQAT_DATA_DIR, else params.yaml's, else what `kdqat fetch` brought, else the hub]",
    ),
]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help=field_help(Params, "recipe"))]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of first weights, order of rows and dropout.")
]
EpochsOption = Annotated[float | None, typer.Option("--epochs", help=field_help(Training, "epochs"))]
MaxStepsOption = Annotated[int | None, typer.Option("--max-steps", help=field_help(Training, "max_steps"))]
LearningRateOption = Annotated[
    float | None, typer.Option("--learning-rate", help=field_help(Training, "learning_rate"))
]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", help=field_help(Training, "batch_size"))]
MaxLengthOption = Annotated[int | None, typer.Option("--max-length", help=field_help(Training, "max_length"))]
EvalEveryOption = Annotated[int | None, typer.Option("--eval-every", help=field_help(Training, "eval_every"))]
PrecisionOption = Annotated[PrecisionName | None, typer.Option("--precision", help=field_help(Training, "precision"))]
LossOption = Annotated[
    str | None, typer.Option("--loss", help=field_help(Distillation, "loss"), metavar=LOSSES.metavar())
]
FormatOption = Annotated[
    str,
    typer.Option("--format", help="What to write; `kdqat ls formats` says who loads it.", metavar=FORMATS.metavar()),
]
MixOption = Annotated[MixName | None, typer.Option("--mix", help=field_help(Distillation, "mix"))]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help=field_help(Distillation, "temperature"))]
BetaOption = Annotated[float | None, typer.Option("--beta", help=field_help(Distillation, "beta"))]
HiddenLayersOption = Annotated[
    str | None,
    typer.Option("--hidden-layers", help=field_help(Distillation, "hidden_layers"), metavar="all|0,3,-1"),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help=field_help(Quantization, "weights"), metavar=LEVELS.metavar())
]
BitsOption = Annotated[int | None, typer.Option("--bits", help=field_help(Quantization, "bits"))]
BucketOption = Annotated[int | None, typer.Option("--bucket", help=field_help(Quantization, "bucket"))]
ActivationsOption = Annotated[
    ActivationsName | None, typer.Option("--activations", help=field_help(Quantization, "activations"))
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change any field of the recipe; repeat for more.", metavar="SECTION.FIELD=VALUE"),
]
DevicesOption = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        help="Processes that share every batch, one a GPU; without GPUs they share the processor. [default: 1]",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Stages that run at once. [default: one a GPU; without GPUs one]"),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Run on the Ray cluster at this address, whose machines share this folder. Needs kdqat[ray].",
        metavar="ADDRESS",
    ),
]
DeviceOption = Annotated[
    Device | None,
    typer.Option("--device", help="Where the packed model is computed; `cuda` is the GPU. [default: cpu]"),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=MOST_THREADS, help="Threads that compute. [default: all processors]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]


def training_options(
    epochs: float | None,
    max_steps: int | None,
    learning_rate: float | None,
    batch_size: int | None,
    max_length: int | None,
    eval_every: int | None,
    precision: PrecisionName | None,
) -> dict[str, object]:
    """The options of a training as changes to its section."""
    return {
        "epochs": epochs,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
        "eval_every": eval_every,
        "precision": precision,
    }


def distillation_options(
    method: MethodName | None,
    loss: str | None,
    mix: MixName | None,
    beta: float | None,
    temperature: float | None,
    hidden_layers: str | None,
) -> dict[str, object]:
    """The options of a distillation as changes to its section.

    Raises:
        ConfigError: `--hidden-layers` is not of its form.
    """
    return {
        "method": method,
        "loss": loss,
        "mix": mix,
        "beta": beta,
        "temperature": temperature,
        "hidden_layers": layers_option(hidden_layers),
    }


def layers_option(text: str | None) -> list[int] | str | None:
    """The value of `--hidden-layers`: `all`, or numbers with commas between them.

    Raises:
        ConfigError: it is neither.
    """
    if text is None or text == "all":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        fix = "--hidden-layers all, or --hidden-layers 0,3,-1"
        raise ConfigError(f"--hidden-layers is all, or numbers with commas between them, not {text!r}.", fix) from error


def shapes_option(texts: list[str]) -> list[tuple[int, int]]:
    """The values of `--shape`: rows and tokens.

    Raises:
        ConfigError: one of them is not two numbers with an x between.
    """
    shapes = []
    for text in texts:
        rows, _, tokens = text.partition("x")
        if not (rows.isdigit() and tokens.isdigit() and int(rows) and int(tokens)):
            raise ConfigError(f"--shape takes ROWSxTOKENS, not {text!r}.", "--shape 8x128")
        shapes.append((int(rows), int(tokens)))
    return shapes


def text_argument(text: str | None) -> str | None:
    """A text of the command line; where the locale could not decode it (LC_ALL=C), it is read as UTF-8.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if text is None or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"The text {shown(text)} is not UTF-8.") from error


def processors() -> int:
    """Processors that this process may use, as far as the engine has threads for them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MOST_THREADS)


def refuse_idle(loss: str, **given: object) -> None:
    """Refuses options that the chosen loss does not read: whoever gives one expects it to matter."""
    for name, value in given.items():
        if value is not None and loss not in READ_BY[name]:
            fitting = " or ".join(f"--loss {other}" for other in READ_BY[name])
            raise ConfigError(f"--{name} has no meaning for --loss {loss}.", fitting)


def quantization_options(
    weights: str | None, activations: ActivationsName | None, bits: int | None, bucket: int | None
) -> dict[str, object]:
    """The options of a quantisation as changes to its section."""
    return {"weights": weights, "activations": activations, "bits": bits, "bucket": bucket}


def refuse_idle_of_weights(settings: Quantization, options: dict[str, object]) -> None:
    """Refuses options of `quantization_options` that the chosen weights do not read.

    Raises:
        ConfigError: there is one.
    """
    for name, weights in READ_BY_WEIGHTS.items():
        if options.get(name) is not None and settings.weights not in weights:
            fitting = " or ".join(f"--weights {other}" for other in weights)
            raise ConfigError(f"--{name} has no meaning for --weights {settings.weights}.", fitting)
