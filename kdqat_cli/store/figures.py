"""What stands in run.json, in metrics/*.json and in history.csv, and the one reader of each.

Every JSON file has a version. A file without one was written by an earlier kdqat and is read all the same.
"""

import csv
import json
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from kdqat_cli.config import READ_BY, Section, parse
from kdqat_cli.errors import MissingInputError
from kdqat_cli.record import Kind, Record

VERSION: Literal[1] = 1

SectionT = TypeVar("SectionT", bound=Section)


class DamagedError(MissingInputError):
    """A file that kdqat writes does not hold what kdqat writes.

    Attributes:
        reason: why, as half a sentence: "it is not JSON".
    """

    def __init__(self, path: Path, reason: str, fix: str) -> None:
        """Names the file, the reason and the command that mends it."""
        super().__init__(f"{path} is damaged: {reason}.", fix)
        self.reason = reason


class Size(TypedDict):
    """How large a model is; the names are those of `Run`."""

    parameters: int
    bytes: int
    bits_per_weight: float
    ratio_to_fp32: float


class Compared(TypedDict, total=False):
    """How an export for another engine compares with its student, on dev rows; the names are those of `Run`."""

    rows: int
    rows_differing: int
    largest_difference: float
    student_score: float
    score: float
    texts: int
    texts_split_otherwise: int


class Run(Section):
    """run.json: how a result came about on this machine, and what its stage measured."""

    version: Literal[1] = VERSION
    """Version of this schema."""
    seconds: float = Field(ge=0)
    """Wall-clock seconds of the stage."""
    device: str | None = None
    """Name of the GPU, or of the processor where there is none."""
    devices: int = Field(default=1, ge=1)
    """Processes that trained together."""
    threads: int | None = None
    """Threads of each process."""
    kernel: str | None = None
    """The engine's kernel on this machine."""
    gpu_memory_mb: float | None = None
    """The most memory that torch allocated on the GPU, in this process, in 10^6 bytes."""
    rows: int | None = None
    """Rows trained on; of an export, dev rows compared."""
    steps: int | None = None
    """Optimiser steps."""
    score: float | None = None
    """Dev score in percent."""
    level_bits: float | None = None
    """Mean over the quantised weights of log2 of their number of levels."""
    half: bool | None = None
    """Of an export: whether what is not quantised is FP16."""
    codec: str | None = None
    """Of an export: the codec that was asked for; null: the default."""
    parameters: int | None = None
    """Parameters of the model."""
    bytes: int | None = None
    """Bytes of the weights file."""
    bits_per_weight: float | None = None
    """Bits of the weights file per parameter."""
    ratio_to_fp32: float | None = None
    """FP32 bytes of all parameters over `bytes`."""
    rows_differing: int | None = None
    """Of an export: compared rows whose label is not the student's."""
    largest_difference: float | None = None
    """Of an export: the largest difference of a logit."""
    student_score: float | None = None
    """Of an export: the student's dev score in percent."""
    texts: int | None = None
    """Of an export with a tokenizer of its own: texts compared."""
    texts_split_otherwise: int | None = None
    """Of these, the texts that it splits differently."""

    def to_json(self) -> dict[str, object]:
        """The run as JSON holds it; what is not known is left out."""
        return self.model_dump(exclude_none=True)


class Factors(Section):
    """What tells one measured model from another, from the model's record."""

    task: str
    """Task that was scored."""
    kind: Kind
    """What made the model."""
    seed: int | None = None
    """Seed of its training."""
    loss: str | None = None
    """Attention loss that it was distilled with."""
    mix: str | None = None
    """Form of the mix, where the loss reads it; so the next two."""
    beta: float | None = None
    """Weight of the second summand of the mix."""
    temperature: float | None = None
    """What divides the scores before softmax."""
    weights: str | None = None
    """Quantiser of the weights."""
    activations: str | None = None
    """Quantiser of the activations."""


class Metrics(Section):
    """A file under metrics/: the figures of one model on one task, flat for `dvc metrics`, and its factors.

    Besides `score` it holds the task's metrics in percent, those of further splits under the split's name, `rows`, and
    the size of a local file (`parameters`, `bytes`, `bits_per_weight`, `ratio_to_fp32`): which ones, the task says.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float] = Field(init=False)

    version: Literal[1] = VERSION
    """Version of this schema."""
    score: float
    """The headline score in percent."""
    model: Factors | None = None
    """What was measured; null: an earlier kdqat wrote the file."""
    not_to_be_quoted: str | None = None
    """Why the score says nothing about the method: what of a smoke run was cut short; null: it may be quoted."""

    @property
    def figures(self) -> dict[str, float]:
        """The score and every other figure by name."""
        return {"score": self.score, **self.__pydantic_extra__}

    def to_json(self) -> dict[str, object]:
        """The metrics as JSON holds them; factors that the model does not have are left out."""
        model = {} if self.model is None else {"model": self.model.model_dump(exclude_none=True)}
        mark = {} if self.not_to_be_quoted is None else {"not_to_be_quoted": self.not_to_be_quoted}
        return {"version": self.version, **self.figures, **mark, **model}


class Evaluation(NamedTuple):
    """A row of history.csv at which the model was scored."""

    step: int
    """Optimiser steps so far."""
    score: float
    """Dev score in percent."""


def factors_of(record: Record, task: str) -> Factors:
    """The factors of a model.

    Args:
        record: of the model.
        task: the task that it is scored on.

    Raises:
        ConfigError: the settings in the record are damaged.
    """
    found: dict[str, object] = {"task": task, "kind": record.kind, "seed": record.seed}
    said = record.settings.get("distillation")
    if isinstance(said, dict) and (loss := said.get("loss")) is not None:
        read = ["loss", *(name for name, losses in READ_BY.items() if loss in losses)]
        found |= {name: said.get(name) for name in read}
    if record.quantization is not None:
        found |= {"weights": record.quantization.weights, "activations": record.quantization.activations}
    return parse(Factors, found, "the model's record")


def read_run(path: Path) -> Run:
    """The run in a file.

    Raises:
        DamagedError: it is not there, or does not hold a run.
    """
    return read_section(Run, path, "the command that made the folder, with --force")


def read_metrics(path: Path) -> Metrics:
    """The metrics in a file.

    Raises:
        DamagedError: it is not there, or does not hold metrics.
    """
    return read_section(Metrics, path, f"kdqat evaluate MODEL --out {path}")


def holds_metrics(text: str) -> bool:
    """Whether a text is that of a metrics file, so that another may replace it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "score" in value


def read_evaluations(path: Path) -> tuple[list[Evaluation], int]:
    """The evaluations in a history.csv, and the steps of its last row.

    Raises:
        DamagedError: it is not there, or does not hold a history.
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
    """A JSON file that kdqat writes.

    Args:
        model: its schema.
        path: the file.
        fix: the command that mends it, for the error.

    Raises:
        DamagedError: it is not there, or does not hold what the schema says.
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
        reason = f"it has version {version}, and this kdqat reads version {VERSION}"
        raise DamagedError(path, reason, "pip install --upgrade kdqat")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise DamagedError(path, _reason(error), fix) from error


def _reason(error: ValidationError) -> str:
    """The first fault; of a number that may be whole or not, what is wrong with it as a number."""
    details = error.errors()
    place = details[0]["loc"][0]
    fault = [detail for detail in details if detail["loc"][0] == place][-1]
    if fault["type"] == "missing":
        return f"it has no {'.'.join(map(str, fault['loc']))}"
    return f"its {place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
