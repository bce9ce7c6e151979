"""The contents of run.json, metrics/*.json and history.csv as types, and the reader of each.

Every JSON file has a version. A file without a version was written by an earlier kdqat and can be read too.
"""

import csv
import json
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from kdqat_cli.config import READ_BY, Section, parse
from kdqat_cli.errors import MissingInputError
from kdqat_cli.record import ModelKind, Record

VERSION: Literal[1] = 1

SectionT = TypeVar("SectionT", bound=Section)


class DamagedError(MissingInputError):
    """A file of kdqat has been damaged.

    Attributes:
        reason: the reason as a clause, for example "it is not JSON".
    """

    def __init__(self, path: Path, reason: str, fix: str) -> None:
        """Takes the file, the reason, and the command that makes the file again."""
        super().__init__(f"{path} is damaged: {reason}.", fix)
        self.reason = reason


class Size(TypedDict):
    """The size of a model; `Run` explains the fields."""

    parameters: int
    bytes: int
    bits_per_weight: float
    ratio_to_fp32: float


class Compared(TypedDict, total=False):
    """The comparison of an export for another engine with its student on dev rows; `Run` explains the fields."""

    rows: int
    rows_differing: int
    largest_difference: float
    student_score: float
    score: float
    texts: int
    texts_split_otherwise: int


class Run(Section):
    """The content of run.json: how a stage ran on this machine, and what it measured."""

    version: Literal[1] = VERSION
    """Version of this schema."""
    seconds: float = Field(ge=0)
    """Wall-clock seconds of the stage."""
    device: str | None = None
    """Name of the GPU, or of the CPU if there is no GPU."""
    devices: int = Field(default=1, ge=1)
    """Number of processes that trained together."""
    threads: int | None = None
    """Number of threads of each process."""
    kernel: str | None = None
    """Kernel of the engine on this machine."""
    gpu_memory_mb: float | None = None
    """Largest memory that torch allocated on the GPU in this process, in 10^6 bytes."""
    rows: int | None = None
    """Number of training rows; for an export, of compared dev rows."""
    steps: int | None = None
    """Number of optimiser steps."""
    score: float | None = None
    """Dev score in percent."""
    level_bits: float | None = None
    """Mean of log2(number of levels) over the quantised weights."""
    half: bool | None = None
    """For an export: whether tensors that are not quantised are FP16."""
    codec: str | None = None
    """For an export: the codec that was asked for; null: the default."""
    parameters: int | None = None
    """Number of parameters of the model."""
    bytes: int | None = None
    """Number of bytes of the weights file."""
    bits_per_weight: float | None = None
    """Bits of the weights file per parameter."""
    ratio_to_fp32: float | None = None
    """Bytes of all parameters in FP32, divided by `bytes`."""
    rows_differing: int | None = None
    """For an export: number of compared rows with another label than the student's."""
    largest_difference: float | None = None
    """For an export: the largest difference of a logit."""
    student_score: float | None = None
    """For an export: the student's dev score in percent."""
    texts: int | None = None
    """For an export with its own tokenizer: number of compared texts."""
    texts_split_otherwise: int | None = None
    """For an export with its own tokenizer: number of texts that it splits differently."""

    def to_json(self) -> dict[str, object]:
        """The run as a JSON object, without unknown fields."""
        return self.model_dump(exclude_none=True)


class Factors(Section):
    """The factors that distinguish measured models, from their records."""

    task: str
    """Task of the score."""
    kind: ModelKind
    """Kind of the model."""
    seed: int | None = None
    """Seed of the training."""
    loss: str | None = None
    """Distillation loss."""
    mix: str | None = None
    """Form of the mix; as the next two, only if the loss uses it."""
    beta: float | None = None
    """Weight of the second summand of the mix."""
    temperature: float | None = None
    """Divides the scores before softmax."""
    weights: str | None = None
    """Quantiser of the weights."""
    activations: str | None = None
    """Quantiser of the activations."""


class Metrics(Section):
    """A file under metrics/: the figures of one model on one task, flat for `dvc metrics`, and its factors.

    Besides `score` it has the metrics of the task in percent, those of other splits with the name of the split, `rows`,
    and the size of a local file (`parameters`, `bytes`, `bits_per_weight`, `ratio_to_fp32`).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float] = Field(init=False)

    version: Literal[1] = VERSION
    """Version of this schema."""
    score: float
    """The headline score in percent."""
    model: Factors | None = None
    """The factors of the model; null: an earlier kdqat wrote the file."""
    not_to_be_quoted: str | None = None
    """Why the score says nothing about the method, for example a shortened training; null: it may be quoted."""

    @property
    def figures(self) -> dict[str, float]:
        """The score and every other figure by name."""
        return {"score": self.score, **self.__pydantic_extra__}

    def to_json(self) -> dict[str, object]:
        """The metrics as a JSON object, without factors that the model does not have."""
        model = {} if self.model is None else {"model": self.model.model_dump(exclude_none=True)}
        mark = {} if self.not_to_be_quoted is None else {"not_to_be_quoted": self.not_to_be_quoted}
        return {"version": self.version, **self.figures, **mark, **model}


class Evaluation(NamedTuple):
    """A row of history.csv with a score."""

    step: int
    """Number of optimiser steps so far."""
    score: float
    """Dev score in percent."""


def factors_of(record: Record, task: str) -> Factors:
    """The factors of a model.

    Args:
        record: the record of the model.
        task: the task of the score.

    Raises:
        ConfigError: the settings in the record are damaged.
    """
    found: dict[str, object] = {"task": task, "kind": record.kind, "seed": record.seed}
    if (loss := record.distillation.get("loss")) is not None:
        read = ["loss", *(name for name, losses in READ_BY.items() if loss in losses)]
        found |= {name: record.distillation.get(name) for name in read}
    if record.quantization is not None:
        found |= {"weights": record.quantization.weights, "activations": record.quantization.activations}
    return parse(Factors, found, "the model's record")


def read_run(path: Path) -> Run:
    """Reads a run.json.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    return read_section(Run, path, "the command that made the folder, with --force")


def read_metrics(path: Path) -> Metrics:
    """Reads a metrics file.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    return read_section(Metrics, path, f"kdqat evaluate MODEL --out {path}")


def holds_metrics(text: str) -> bool:
    """Whether a text is a metrics file, which another metrics file may replace."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "score" in value


def read_evaluations(path: Path) -> tuple[list[Evaluation], int]:
    """The evaluations in a history.csv, and the steps of its last row.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    fix = "the command that made the folder, with --force"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [Evaluation(int(row["step"]), float(row["score"])) for row in rows if row["score"]]
        return found, int(rows[-1]["step"])
    except OSError as error:
        raise DamagedError(path, f"it cannot be read ({error.strerror})", fix) from error
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise DamagedError(path, "it is not a history of a training", fix) from error


def read_section(model: type[SectionT], path: Path, fix: str) -> SectionT:
    """Reads a JSON file of kdqat.

    Args:
        model: schema of the file.
        path: the file.
        fix: the command that makes the file again, for the error.

    Raises:
        DamagedError: the file is missing, or does not fit the schema.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedError(path, f"it cannot be read ({error.strerror})", fix) from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, "it is not JSON", fix) from error
    if not isinstance(value, dict):
        raise DamagedError(path, "it is not a JSON object", fix)
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        reason = f"it has version {version}, but this kdqat reads version {VERSION}"
        raise DamagedError(path, reason, "pip install --upgrade kdqat")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise DamagedError(path, _reason(error), fix) from error


def _reason(error: ValidationError) -> str:
    """The first fault; for a value that may be an integer or a float, the fault as a float."""
    details = error.errors()
    place = details[0]["loc"][0]
    fault = [detail for detail in details if detail["loc"][0] == place][-1]
    if fault["type"] == "missing":
        return f"it has no {'.'.join(map(str, fault['loc']))}"
    return f"its {place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
