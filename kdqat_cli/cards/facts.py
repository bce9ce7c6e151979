"""The facts of a model card, collected from the record of an export, its files and its measurements."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from kdqat_cli.errors import KdqatError
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.record import Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import Compared, Size
from kdqat_cli.store.places import EMBEDDED, EMBEDDED_ID
from kdqat_cli.tasks.registry import load_task
from kdqat_cli.tasks.task import Hosted, Task

if TYPE_CHECKING:
    from kdqat_cli.exporters.catalogue import Format

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


class Score(NamedTuple):
    """A metric over the seeds of a run."""

    name: str
    """The task's name of the metric; `score` is the headline."""
    values: list[float]
    """One value per seed."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.values)

    @property
    def text(self) -> str:
        """The mean, with the sample standard deviation if there are several values."""
        mean = f"{self.mean:.2f}"
        return mean if len(self.values) < 2 else f"{mean} ± {stdev(self.values):.2f}"


@dataclass(frozen=True)
class Measured:
    """Scores on the task's dev rows.

    Attributes:
        scores: the metrics.
        seeds: seeds of the trainings, in the order of the values; None: a training without a seed.
        whose: the model that was scored, to follow "Scores of".
        own: whether the card's own model was scored; only then the card's header has the scores.
    """

    scores: list[Score]
    seeds: list[int | None]
    whose: str
    own: bool


@dataclass(frozen=True)
class Facts:
    """The facts of a card.

    Attributes:
        record: record of the export.
        task: the model's task; None: the task's file is not on this machine.
        format: `packed`, or the name of another engine's format.
        file: name of the file of weights.
        digest: sha256 of that file.
        size: size of the model.
        measured: scores; None: not known.
        engine: name of the engine that another format is for.
        loses: where the numbers of another format differ from the student's.
        library: the hub's name of the library that loads the model.
        usage: Python code that loads another format.
        packages: packages that the code needs.
        compared: how the export compares with its student, as a sentence.
        speed: rows of the table of times; empty: not measured.
        machine: the machine of these measurements.
    """

    record: Record
    task: Task | None
    format: str
    file: str
    digest: str
    size: Size
    measured: Measured | None = None
    engine: str = ""
    loses: str = ""
    library: str | None = None
    usage: str = ""
    packages: tuple[str, ...] = ()
    compared: str = ""
    speed: list[dict[str, object]] = field(default_factory=list)
    machine: str = ""

    def with_speed(self, speed: list[dict[str, object]], machine: str) -> "Facts":
        """The same facts with measured times."""
        return replace(self, speed=speed, machine=machine)

    @property
    def hosted(self) -> Hosted:
        """The task's fields on the model hub."""
        return self.task.hosted if self.task else Hosted(None, [])

    @property
    def name(self) -> str:
        """The model's name in the header."""
        return "-".join(filter(None, [self.record.task, self.record.loss, self.format]))

    @property
    def base(self) -> str | None:
        """The hub id of the encoder, or of a teacher that kdqat did not make; None: a local folder, or a network."""
        encoder = self.record.encoder
        if encoder == EMBEDDED:
            return EMBEDDED_ID
        local = encoder is None or self.record.sources.get("encoder") is not None
        return encoder if not local and encoder and _HUB_ID.fullmatch(encoder) else None

    @property
    def weights(self) -> str:
        """The quantiser of the weights; other engines' formats have no record of it, but take only ternary weights."""
        return self.record.quantization.weights if self.record.quantization else "ternary"


def packed_facts(record: Record, folder: Path, size: Size, measured: Measured | None) -> Facts:
    """The facts of a packed folder.

    Args:
        record: record of the packed model.
        folder: folder of the packed file.
        size: size of the model.
        measured: scores, or None.
    """
    file = folder / FILE_NAME
    return Facts(record, _task_of(record), "packed", file.name, file_digest(file), size, measured, library="kdqat")


def foreign_facts(
    record: Record, folder: Path, size: Size, spec: "Format", compared: Compared, measured: Measured | None = None
) -> Facts:
    """The facts of an export for another engine.

    Args:
        record: record of the export.
        folder: folder of its files.
        size: size of the model.
        spec: its format.
        compared: how it compares with the student.
        measured: scores; None: the score of the comparison.
    """
    differing = f"{compared['rows_differing']} of {compared['rows']} rows got a label other than the student's."
    if measured is None:
        own = [Score("score", [compared["score"]])]
        measured = Measured(own, [record.seed], "this model, run by its own engine", True)
    return Facts(
        record,
        _task_of(record),
        str(record.format),
        spec.file,
        file_digest(folder / spec.file),
        size,
        measured,
        engine=spec.engine,
        loses=spec.loses,
        library=spec.library,
        usage=spec.usage,
        packages=spec.packages,
        compared=f"In the check after its export, {differing}",
    )


def _task_of(record: Record) -> Task | None:
    """The task that a model was made for; None: its file is gone, as on another machine."""
    name = record.task_file or record.task
    try:
        return load_task(name) if name else None
    except KdqatError:
        return None
