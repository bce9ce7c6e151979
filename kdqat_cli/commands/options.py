"""The options that several commands share. The help of an option that sets a field is the field's docstring.

A dataclass here is a group of options. A command with a parameter of this class gets all options of the group (app.py).
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from typer.models import OptionInfo

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


def _of(section: type[BaseModel], name: str, metavar: str | None = None) -> OptionInfo:
    """The option that changes a field of a recipe's section."""
    option: OptionInfo = typer.Option(f"--{name.replace('_', '-')}", help=field_help(section, name), metavar=metavar)
    return option


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
TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="Teacher: folder or hub id. [default: runs/TASK/teacher]")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the results. [default: under runs/TASK]")]
DataDirOption = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        help="Folder of local task data in the published layouts. "
        "[default: the variable KDQAT_DATA_DIR, else params.yaml's, else the data of `kdqat fetch`, else the hub]",
    ),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help=field_help(Params, "recipe") + " [default: params.yaml's, else clean]")
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Replace a finished result of other settings, and remove checkpoints of others."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of first weights, order of rows and dropout.")
]
MaxLengthOption = Annotated[int | None, _of(Training, "max_length")]
LossOption = Annotated[str | None, _of(Distillation, "loss", metavar=LOSSES.metavar())]
FormatOption = Annotated[
    str,
    typer.Option("--format", help="Format to write; `kdqat ls formats` explains them.", metavar=FORMATS.metavar()),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Stages that run at once. [default: one per GPU; without GPUs one]"),
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
    typer.Option("--device", help="Device that computes a packed model; `cuda` is the GPU. [default: cpu]"),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        help="Number of threads. [default: all processors, or the limit of the container]",
    ),
]
WeakOption = Annotated[
    bool,
    typer.Option(
        "--allow-weak-teacher",
        help="Allow a teacher that is no better than a constant answer; the result is marked as not to be quoted.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]


@dataclass(frozen=True)
class _Changes:
    """Options that change a section of the recipe."""

    def changes(self) -> dict[str, object]:
        """Field of the section → the given value; None: not given."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingOptions(_Changes):
    """How a model is trained: changes to a section of the recipe."""

    epochs: Annotated[float | None, _of(Training, "epochs")] = None
    limit: Annotated[int | None, _of(Training, "limit")] = None
    max_steps: Annotated[int | None, _of(Training, "max_steps")] = None
    learning_rate: Annotated[float | None, _of(Training, "learning_rate")] = None
    batch_size: Annotated[int | None, _of(Training, "batch_size")] = None
    max_length: MaxLengthOption = None
    eval_every: Annotated[int | None, _of(Training, "eval_every")] = None
    precision: Annotated[PrecisionName | None, _of(Training, "precision")] = None


@dataclass(frozen=True)
class DistillationOptions(_Changes):
    """What the student learns: changes to the section `distillation`."""

    method: Annotated[MethodName | None, _of(Distillation, "method")] = None
    loss: LossOption = None
    mix: Annotated[MixName | None, _of(Distillation, "mix")] = None
    beta: Annotated[float | None, _of(Distillation, "beta")] = None
    temperature: Annotated[float | None, _of(Distillation, "temperature")] = None
    layers: Annotated[str | None, _of(Distillation, "layers", metavar="0,2,5")] = None
    hidden_layers: Annotated[str | None, _of(Distillation, "hidden_layers", metavar="all|0,3,-1")] = None

    def changes(self) -> dict[str, object]:
        """See `_Changes`.

        Raises:
            ConfigError: `--hidden-layers` or `--layers` has a wrong form.
        """
        kept = None if self.layers is None else numbers_option("--layers", self.layers, "0,2,5")
        return asdict(self) | {"hidden_layers": layers_option(self.hidden_layers), "layers": kept}

    def refuse_idle(self, settings: Distillation) -> None:
        """Refuses options that have no effect with the chosen loss.

        Raises:
            ConfigError: such an option is given.
        """
        for name, losses in READ_BY.items():
            if getattr(self, name) is not None and settings.loss not in losses:
                fitting = " or ".join(f"--loss {other}" for other in losses)
                raise ConfigError(f"--{name} has no meaning for --loss {settings.loss}.", fitting)


@dataclass(frozen=True)
class QuantizationOptions(_Changes):
    """How the student is quantised: changes to the section `quantization`."""

    weights: Annotated[str | None, _of(Quantization, "weights", metavar=LEVELS.metavar())] = None
    activations: Annotated[ActivationsName | None, _of(Quantization, "activations")] = None
    bits: Annotated[int | None, _of(Quantization, "bits")] = None
    bucket: Annotated[int | None, _of(Quantization, "bucket")] = None

    def refuse_idle(self, settings: Quantization) -> None:
        """Refuses options that have no effect with the chosen weights.

        Raises:
            ConfigError: such an option is given.
        """
        for name, weights in READ_BY_WEIGHTS.items():
            if getattr(self, name, None) is not None and settings.weights not in weights:
                fitting = " or ".join(f"--weights {other}" for other in weights)
                raise ConfigError(f"--{name} has no meaning for --weights {settings.weights}.", fitting)


@dataclass(frozen=True)
class ColumnOptions:
    """The columns of a file of rows."""

    text_column: Annotated[
        str | None, typer.Option("--text-column", help="Column of the text. [default: found by name and content]")
    ] = None
    pair_column: Annotated[
        str | None, typer.Option("--pair-column", help="Column of a pair's second text; needs --text-column.")
    ] = None
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="Column of the label. [default: found by name and content]")
    ] = None
    multi_label: Annotated[
        bool | None,
        typer.Option(
            "--multi-label/--single-label",
            help="Whether a row may have several labels (a;b), or none. [default: if most labels occur in several "
            "combinations, or in lists]",
        ),
    ] = None
    quoting: Annotated[
        bool | None,
        typer.Option(
            "--quoting/--no-quoting", help="Whether double quotes enclose a cell. [default: in a .csv they do]"
        ),
    ] = None
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows without a text or a label; else they are refused.")
    ] = False


@dataclass(frozen=True)
class BeginOptions:
    """The start of a teacher's training."""

    encoder: EncoderOption = None
    network: NetworkOption = None


@dataclass(frozen=True)
class RunOptions:
    """The files of a stage, and its recipe."""

    out: OutOption = None
    force: ForceOption = False
    data_dir: DataDirOption = None
    recipe: RecipeOption = None
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change any field of the recipe; repeat for more.", metavar="SECTION.FIELD=VALUE"),
    ] = None


@dataclass(frozen=True)
class AnswerOptions:
    """The content of an answer, and the table for answers."""

    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Show only the most probable labels, the best first.")
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="Least probability of a label. [default: multi-label, the threshold chosen on dev; else none]",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Read --file as a table (CSV, TSV, JSONL); write its rows with their answers."),
    ] = None
    text_column: Annotated[
        str | None,
        typer.Option("--text-column", help="With --out: the text's column. [default: the task's, else text]"),
    ] = None
    pair_column: Annotated[
        str | None,
        typer.Option("--pair-column", help="With --out: column of a pair's second. [default: the task's, else pair]"),
    ] = None


@dataclass(frozen=True)
class RepeatOptions:
    """Options of a training that are not part of its settings."""

    seed: SeedOption = 42
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            help="Processes that share each batch, one per GPU; without GPUs they share the processor. [default: 1]",
        ),
    ] = None


@dataclass(frozen=True)
class PrintOptions:
    """How a command prints."""

    json: JsonOption = False
    quiet: QuietOption = False


def weak(allowed: bool) -> dict[str, object]:
    """The changes of `--allow-weak-teacher` to the section `distillation`."""
    return {"weak_teacher": "allowed"} if allowed else {}


def layers_option(text: str | None) -> list[int] | str | None:
    """The value of `--hidden-layers`: `all`, or numbers with commas between them.

    Raises:
        ConfigError: it is neither.
    """
    if text is None or text == "all":
        return text
    return numbers_option("--hidden-layers", text, "0,3,-1", "all, or ")


def numbers_option(option: str, text: str, example: str, other: str = "") -> list[int]:
    """Numbers with commas between them.

    Args:
        option: name of the option.
        text: value of the option.
        example: a correct value, for the error.
        other: other possible values, for the error.

    Raises:
        ConfigError: the value has another form.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        fix = f"{option} all, or {option} {example}" if other else f"{option} {example}"
        raise ConfigError(f"{option} must be {other}numbers with commas between them, not {text!r}.", fix) from error


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
    """A text of the command line; if the locale could not decode it (LC_ALL=C), it is read as UTF-8.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if text is None or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"The text {shown(text)} is not UTF-8.", "a terminal and a locale in UTF-8") from error
