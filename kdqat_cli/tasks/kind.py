"""The interface between the stages and a kind of task: its models, and its rows in the form that these models read.

The stages use only this interface. A network of any kind is a model of transformers (a `PreTrainedModel`, which has a
configuration, and can be saved and loaded). It is called with the inputs of a batch by name, and returns an object with
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
    """A model with everything that is needed to read its inputs.

    Attributes:
        model: the network, in eval mode, FP32, on the GPU if there is one.
        weights: the file of its weights; None: they are not one local file.
        record: the record of the stage that made it; its kind is `plain` if kdqat did not make the model.
    """

    model: PreTrainedModel
    weights: Path | None
    record: Record


Own = Any
"""A task, a loaded model or rows of the same kind. The registry pairs them by name, which types cannot express."""
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
    """One row in a form to show to users.

    Attributes:
        texts: its texts.
        tokens: its tokens, one string per token.
        picture: its image, as the bytes of a PNG file.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    picture: bytes | None = None


class Rows(Protocol):
    """One split of a task, in the form that a model reads."""

    @property
    def digest(self) -> str:
        """sha256 of the rows; equal for equal rows from any source."""

    @property
    def chance(self) -> float:
        """The score in percent of the best constant answer, which a model can reach without learning anything."""

    @property
    def examples(self) -> Examples:
        """The rows, in the form that `collate` takes."""

    @property
    def lengths(self) -> list[int]:
        """The length of each row, for example in tokens; rows of similar length are batched together."""

    def collate(self, padding: PaddingName) -> Callable[[list[Example]], dict[str, Tensor]]:
        """Returns the function that makes a batch of training rows.

        A batch has the model's inputs by name, `labels` (B,), and `counted` (B, L), which is 0 at padding and 1
        elsewhere. If a model predicts a class per token, `labels` is (B, L), with -100 where `counted` is 0.
        """

    def part(self, numbers: list[int]) -> Self:
        """Some of the rows, by their numbers."""

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Groups of tokens of a batch, without padding, for the analysis: name of the group → mask (B, L).

        Rows that are not texts have no groups.
        """

    def sample(self, number: int) -> Sample:
        """A row in a form to show to users."""

    def score(self, model: PreTrainedModel, engine: "Engine | None" = None) -> dict[str, float]:
        """A model's metrics on these rows, in percent; `score` is the headline.

        Args:
            model: in training or eval mode; the mode is the same afterwards.
            engine: engine on a GPU with the packed file of the same model; None: the kind chooses torch or the engine.
        """

    def answers(self, model: PreTrainedModel, engine: Any = None) -> Answers | None:
        """A model's answers to all rows; None: an answer is neither a class nor a number. Arguments: see `score`."""


class Kind(Protocol):
    """One kind of task."""

    def inputs(self, source: str) -> dict[str, str]:
        """The inputs of `new`: a word for the input → its folder or hub id."""

    def new(
        self,
        task: Own,
        source: str,
        data_dir: Path | None = None,
        teacher: Own = None,
        fields: Mapping[str, object] | None = None,
    ) -> Loaded:
        """Makes a model to train on a task. Its record has only its source and the digests of its inputs.

        Args:
            task: a task of this kind.
            source: the encoder or network that the training starts from.
            data_dir: folder of local task data, or None; needed if the model depends on training rows (a vocabulary).
            teacher: the loaded model that the new one learns from, or None.
            fields: fields of the network's configuration that the user has set.

        Raises:
            ConfigError: the kind cannot use this source, or these fields.
            MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
        """

    def load(self, source: str, fix: str | None = None) -> Loaded:
        """Loads a trained model.

        Args:
            source: folder, packed file or hub id.
            fix: the command that makes the folder, for the error.

        Raises:
            ConfigError: the kind cannot use this model.
            MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
        """

    def align(self, loaded: Own, task: Own, name: str) -> None:
        """Puts a model's outputs into the order of the task's labels.

        Args:
            loaded: the model; it is changed in place.
            task: the task.
            name: the model's name in the error.

        Raises:
            ConfigError: the model's labels differ from the task's.
        """

    def reading(self, loaded: Own, task: Own, training: Training, section: Literal["teacher", "student"]) -> Record:
        """How a training reads the task's rows, as a record; the record of the result has the same fields.

        Args:
            loaded: the model, or the model that it is a copy of.
            task: the task that it is trained on.
            training: settings of the training.
            section: name of this section of the settings, for errors.

        Raises:
            ConfigError: the model cannot read rows with these settings.
        """

    def as_recorded(self, loaded: Own, task: Own, max_length: int | None) -> Record:
        """How an evaluation reads a task's rows, as a record: as in the training, except for the user's options.

        Args:
            loaded: the model.
            task: the task that it is scored on.
            max_length: the option `--max-length`, or None.

        Raises:
            ConfigError: the model cannot read rows with this option.
        """

    def rows(
        self, task: Own, split: str, data_dir: Path | None, loaded: Own, record: Record, limit: int | None = None
    ) -> Rows:
        """One split of a task.

        Args:
            task: a task of this kind.
            split: `train`, `dev`, or another split of the task.
            data_dir: folder of local task data, or None.
            loaded: the model that reads the rows.
            record: the result of `reading` or `as_recorded`.
            limit: largest number of rows, from the first; None: all.

        Raises:
            MissingInputError: no source has the split, or a row is wrong.
        """

    def taught(self, rows: Own, loaded: Own, folder: Path) -> Rows:
        """The training rows with a teacher's answers as their targets.

        Args:
            rows: training rows of this kind.
            loaded: the teacher.
            folder: folder in which the answers are cached; it is created if needed.

        Raises:
            ConfigError: the kind does not support this.
            MissingInputError: a file in the folder is damaged.
        """

    def write_reader(self, loaded: Own, folder: Path, name: str) -> dict[str, object]:
        """Writes the files that read a packed model's rows, for example a tokenizer.

        Args:
            loaded: the student.
            folder: an existing folder for the files.
            name: the student's name in errors.

        Returns:
            Fields of the packed model's record that differ from the student's.

        Raises:
            ConfigError: these files do not fit the model.
        """

    def pack(self, loaded: Own, folder: Path, record: Record, half: bool, codec: CodecName | None) -> None:
        """Writes the packed file of a student into a folder that has the files of `write_reader`.

        Args:
            loaded: the student.
            folder: folder for the file.
            record: record of the packed model.
            half: store scales and unquantised tensors as FP16.
            codec: how levels are stored; None: trits for a ternary student, else `auto`.

        Raises:
            ConfigError: the codec cannot store the student, or a value is NaN or infinite.
        """

    def answerer(self, source: str, task: Callable[[], Own], device: Device | None) -> Answerer:
        """Loads a trained model that answers lines of text, for `kdqat predict`.

        Args:
            source: folder, packed file or hub id.
            task: loads the task that the model was made for.
            device: device that computes; None: the GPU if there is one.

        Raises:
            ConfigError: the kind has no lines, or the model needs a task and has none recorded.
            MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
        """

    def save(self, loaded: Own, folder: Path, record: Record) -> None:
        """Writes the model, a student's codes, the files that read its rows, and the record.

        Args:
            loaded: the model.
            folder: output folder; it is created if needed.
            record: record of the model.
        """
