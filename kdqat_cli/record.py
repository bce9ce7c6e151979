"""The record beside a model: what kdqat.json holds, and what a packed file carries under `about`.

Every reader takes it through `read_record`, so that types and ranges are checked in one place: the sha256 of a packed
file says that nothing changed since it was written, not that what was written makes sense. The ranges are far above
any real model and far below what would take all memory or hang.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdqat_cli.config import KeepsMoreName, Quantization, Section, parse
from kdqat_cli.errors import ConfigError, MissingInputError

Kind = Literal["plain", "teacher", "ternary", "student", "packed", "export"]
InputName = Literal["input_ids", "attention_mask", "token_type_ids"]
Side = Literal["left", "right"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LONGEST_ROW = 2**20
"""Tokens of the longest row that a record allows."""
_Length = Annotated[int, Field(ge=3, le=LONGEST_ROW)]  # tokens
_Label = Annotated[str, Field(max_length=10_000)]

VERSION: Literal[1] = 1


class Batches(Section):
    """How rows are cut and put together for forward passes."""

    size: int = Field(default=64, ge=1, le=2**20)
    """Rows per batch; fixed, so that a score does not depend on the batch size of the training."""
    pad_to: _Length | None = None
    """Tokens that every row is padded to, in the rows' own order; null: rows of similar length are batched together and
    padded to the longest. Only a student whose batch shares an activation scale feels the difference."""
    keeps_more: KeepsMoreName = "longer"
    """Which text of a pair keeps one token more where both are cut."""

    def of(self, lengths: list[int]) -> Iterator[list[int]]:
        """Indices of the rows of each batch."""
        order = list(range(len(lengths)))
        if self.pad_to is None:  # padding is computed and thrown away
            order.sort(key=lambda index: lengths[index], reverse=True)
        for start in range(0, len(order), self.size):
            yield order[start : start + self.size]


BY_LENGTH = Batches()
"""Serves every model whose predictions depend on the row alone."""


class Inputs(Section):
    """How the tokenizer feeds the model."""

    names: list[InputName] = Field(min_length=1, max_length=3)
    """What the tokenizer returns and the model is given; token types that are not among them are all 0."""
    truncation_side: Side = "right"
    """Where a row that is too long is cut."""
    split_special_tokens: bool = False
    """Whether a special token's name within a text is text."""


class Record(Section):
    """What kdqat records of a model; every field but `kind` may be absent."""

    version: Literal[1] = VERSION
    """Version of this schema."""
    kind: Kind = "plain"
    """What made the model: `plain` elsewhere, `ternary` is `quantize`, `export` another engine's format."""
    task: str | None = Field(default=None, max_length=1000)
    """Name of the task."""
    task_file: str | None = Field(default=None, max_length=10_000)
    """Path of the task's YAML file, for a task of the user's own."""
    labels: list[_Label] | None = Field(default=None, min_length=2, max_length=100_000)
    """Class names in the order of the logits; null: regression."""
    rows_kind: str = Field(default="text", max_length=1000)
    """What a row of the task is: the kind of the task."""
    pairs: bool | None = None
    """Whether rows are pairs of texts; null: not recorded."""
    max_length: _Length | None = None
    """Tokens that rows are cut to."""
    inputs: Inputs | None = None
    """How the tokenizer feeds the model; null: recorded by an earlier version."""
    batches: Batches = BY_LENGTH
    """How the rows were put together on which the model was scored."""
    quantization: Quantization | None = None
    """How the model is quantised; null: full precision."""
    encoder: str | None = None
    """What a teacher was fine-tuned from; of a student, what its teacher was, or the id of a teacher that kdqat did not
    make."""
    network: str | None = Field(default=None, max_length=1000)
    """The network that was trained from random weights; null: none was."""
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of the training."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The resolved recipe, as far as the stage used it."""
    sources: dict[str, str | None] = Field(default_factory=dict)
    """sha256 of what the model was made from."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that made it."""
    format: str | None = None
    """Of an export: its format."""
    not_to_be_quoted: str | None = Field(default=None, max_length=10_000)
    """Why a score of the model says nothing about the method: of a smoke run, what was cut short."""
    tokenizer: Digest | None = None
    """sha256 of a packed model's tokenizer.json."""

    @model_validator(mode="after")
    def _complete(self) -> "Record":
        needed = ["quantization"] if self.kind in ("ternary", "student", "packed") else []
        if needed and self.rows_kind == "text":
            needed += ["max_length", *(["tokenizer"] if self.kind == "packed" else [])]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be given for a {self.kind} model")
        return self

    @property
    def row_length(self) -> int:
        """`max_length` of a model that has one.

        Raises:
            MissingInputError: it is not recorded.
        """
        if self.max_length is None:
            raise MissingInputError(f"The record of the {self.kind} model has no max_length.", "--max-length")
        return self.max_length

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it; what has its default is left out."""
        return {"version": self.version, "kind": self.kind} | self.model_dump(mode="json", exclude_defaults=True)


def read_record(value: Any, where: str) -> Record:
    """A record from its JSON value.

    Args:
        value: what JSON gave.
        where: what the error calls the source.

    Raises:
        MissingInputError: with every fault of the record at once, or it was written by a later version.
    """
    if isinstance(value, dict) and isinstance(version := value.get("version"), int) and version > VERSION:
        raise MissingInputError(
            f"{where} has version {version}; this kdqat reads version {VERSION}.", "pip install --upgrade kdqat"
        )
    try:
        return parse(Record, value, where)
    except ConfigError as error:
        fix = "the command that made the model, to make it again"
        if "quantization.weights" in error.sentence:
            fix = f"{fix}; or plugins: in params.yaml, where a plugin adds these weights"
        raise MissingInputError(f"{error.sentence}\nThe record is damaged.", fix) from error
