"""What a kind of task gives the stages: its models, and its rows as these models read them.

A stage knows no more of a kind than this. A network of any kind is a model of transformers (`PreTrainedModel`: it has
a configuration, saves and loads itself) that is called with a batch's inputs by name and returns an object with
`logits`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.config import CodecName, Device, PaddingName, Training
from kdqat_cli.record import Record
from kdqat_cli.tasks.answers import Answerer
from kdqat_cli.tasks.details import Answers

if TYPE_CHECKING:
    from kdqat_cli.engine.engine import Engine


class Loaded(Protocol):
    """A model, with what reads its inputs.

    Attributes:
        model: in eval mode, FP32, on the GPU where there is one.
        weights: the file of its weights; None where they are not one local file.
        record: what the stage that made it recorded; of kind `plain` where none of ours made it.
    """

    model: PreTrainedModel
    weights: Path | None
    record: Record


Own = Any
"""A task or a loaded model of the kind itself. The registry pairs them by name, which types cannot express."""
Example = Any
"""One row of a training; its type depends on the kind of task."""


class Examples(Protocol):
    """The rows of a training."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, index: int, /) -> Example:
        """The row at an index."""


@dataclass(frozen=True)
class Sample:
    """One row for people.

    Attributes:
        texts: what it says.
        tokens: its text as the model reads it, one string per token.
        picture: a PNG file.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    picture: bytes | None = None


class Rows(Protocol):
    """One split of a task, as a model reads it."""

    @property
    def digest(self) -> str:
        """sha256 of the rows; equal for equal rows, wherever they were read from."""

    @property
    def chance(self) -> float:
        """The score in percent of the best constant answer: what a model that learnt nothing may reach."""

    @property
    def examples(self) -> Examples:
        """The rows as `collate` takes them."""

    @property
    def lengths(self) -> list[int]:
        """What a row costs, tokens for example; rows of similar length are batched together."""

    def collate(self, padding: PaddingName) -> Callable[[list[Example]], dict[str, Tensor]]:
        """What puts rows of a training together to a batch.

        A batch holds the model's inputs by name, `labels` (B,), and `counted` (B, L): what of it is no padding. Where
        a model answers with a class per token, `labels` is (B, L), with -100 where `counted` is 0.
        """

    def part(self, numbers: list[int]) -> Self:
        """Some of the rows, by their numbers."""

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The real tokens of a batch in groups that an analysis tells apart: name → mask (B, L).

        Rows that are not texts have no groups.
        """

    def sample(self, number: int) -> Sample:
        """A row for people."""

    def score(self, model: PreTrainedModel, engine: "Engine | None" = None) -> dict[str, float]:
        """A model's metrics on these rows, in percent; `score` is the headline.

        Args:
            model: in training mode or not; it is left as it was.
            engine: of the same model's packed file, on a GPU; None: the kind chooses what computes.
        """

    def answers(self, model: PreTrainedModel, engine: Any = None) -> Answers | None:
        """What a model says of each row; None: an answer is neither a class nor a number. Arguments as of `score`."""


class Kind(Protocol):
    """One kind of task."""

    def inputs(self, source: str) -> dict[str, str]:
        """What `new` reads: what it is → its folder or hub id."""

    def new(
        self,
        task: Own,
        source: str,
        data_dir: Path | None = None,
        teacher: Own = None,
        fields: Mapping[str, object] | None = None,
    ) -> Loaded:
        """A model to be trained on a task; its record holds no more than the digests of what it was made from.

        Args:
            task: of this kind.
            source: what the model begins with, as the user names it.
            data_dir: folder of local task data, or None; for what a model takes from the training rows.
            teacher: the loaded model that the new one learns from, or None.
            fields: of a network's configuration, that the user determines.

        Raises:
            ConfigError: the kind does not take such a source, or such fields.
            MissingInputError: nothing to load there, or a file is missing, damaged or does not fit the others.
        """

    def load(self, source: str, fix: str | None = None) -> Loaded:
        """A model that was trained.

        Args:
            source: folder, packed file or hub id.
            fix: the command that makes the folder, for the error.

        Raises:
            ConfigError: it is none that the kind takes.
            MissingInputError: nothing to load there, or a file is missing, damaged or does not fit the others.
        """

    def align(self, loaded: Own, task: Own, name: str) -> None:
        """Brings a model's outputs into the order of the task's labels.

        Args:
            loaded: changed in place.
            task: whose order is wanted.
            name: what the error calls the model.

        Raises:
            ConfigError: its outputs are not the task's labels.
        """

    def reading(self, loaded: Own, task: Own, training: Training, section: Literal["teacher", "student"]) -> Record:
        """How a model that is trained reads the task's rows: what the record of the result says of it.

        Args:
            loaded: the model, or the one that it is a copy of.
            task: what it is trained on.
            training: how.
            section: of the settings, where `training` stands; for errors.

        Raises:
            ConfigError: the model cannot read rows so.
        """

    def as_recorded(self, loaded: Own, task: Own, max_length: int | None) -> Record:
        """How a trained model reads a task's rows: as it was trained, but for what the user asks for.

        Args:
            loaded: the model.
            task: what it is scored on.
            max_length: the option `--max-length`, or None.

        Raises:
            ConfigError: the model cannot read rows so.
        """

    def rows(
        self, task: Own, split: str, data_dir: Path | None, loaded: Own, record: Record, limit: int | None = None
    ) -> Rows:
        """One split of a task.

        Args:
            task: of this kind.
            split: `train`, `dev`, or another that the task names.
            data_dir: folder of local task data, or None.
            loaded: the model that reads them.
            record: from `reading` or `as_recorded`.
            limit: rows at most, the first of the split; None: all.

        Raises:
            MissingInputError: no source has the split, or a row is wrong.
        """

    def taught(self, rows: Own, loaded: Own, folder: Path) -> Rows:
        """The training rows with a teacher's answers in the place of theirs.

        Args:
            rows: of this kind.
            loaded: the teacher.
            folder: where its answers are kept for the next time; need not be there.

        Raises:
            ConfigError: the kind has no such rows.
            MissingInputError: what is kept is damaged.
        """

    def write_reader(self, loaded: Own, folder: Path, name: str) -> dict[str, object]:
        """Writes what reads a packed model's rows, a tokenizer for example.

        Args:
            loaded: the student.
            folder: takes the files; it is there.
            name: what errors call the student.

        Returns:
            What the record of the packed model says otherwise than the student's.

        Raises:
            ConfigError: it does not fit the model.
        """

    def pack(self, loaded: Own, folder: Path, record: Record, half: bool, codec: CodecName | None) -> None:
        """Writes the packed file of a student into a folder that `write_reader` has filled.

        Args:
            loaded: the student.
            folder: takes the file.
            record: of the result.
            half: scales and what is not quantised as FP16.
            codec: how levels are stored; None: trits for a ternary student, else `auto`.

        Raises:
            ConfigError: the codec cannot hold the student, or a value is not finite.
        """

    def answerer(self, source: str, task: Callable[[], Own], device: Device | None) -> Answerer:
        """A trained model that answers lines: what of a line is an example, and how its answer is shown.

        Args:
            source: folder, packed file or hub id.
            task: loads the task that the model was made for.
            device: that computes; None: the GPU where there is one.

        Raises:
            ConfigError: the kind takes no lines, or the model names no task and needs one.
            MissingInputError: nothing to load there, or a file is missing, damaged or does not fit the others.
        """

    def save(self, loaded: Own, folder: Path, record: Record) -> None:
        """Writes the model, a student's codes, what reads its inputs, and the record.

        Args:
            loaded: the model.
            folder: takes the files; it need not be there.
            record: of the result.
        """
