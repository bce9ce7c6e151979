"""The record of a model: the content of kdqat.json, and of `about` in a packed file.

Every reader uses `read_record`, so types and ranges are checked in one place. The sha256 of a packed file only shows
that the file did not change, not that its content is valid. The ranges are far above any real model, and far below
values that would fill the memory or take forever.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdqat_cli.config import KeepsMoreName, Quantization, Section, parse
from kdqat_cli.errors import ConfigError, MissingInputError

ModelKind = Literal["plain", "teacher", "ternary", "student", "packed", "export"]
InputName = Literal["input_ids", "attention_mask", "token_type_ids"]
Side = Literal["left", "right"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LONGEST_ROW = 2**20
"""The largest number of tokens of a row in a record."""
_Length = Annotated[int, Field(ge=3, le=LONGEST_ROW)]  # tokens
_Label = Annotated[str, Field(max_length=10_000)]

VERSION: Literal[1] = 1


class Batches(Section):
    """How rows are truncated and batched for evaluation."""

    size: int = Field(default=64, ge=1, le=2**20)
    """Rows per batch; fixed, so that a score does not depend on the batch size of the training."""
    pad_to: _Length | None = None
    """Number of tokens that every row is padded to, in the given order of rows; null: rows of similar length are
    batched together and padded to the longest. This only matters for a student whose batch shares an activation
    scale."""
    keeps_more: KeepsMoreName = "longer"
    """Text of a pair that keeps one token more if both are truncated."""

    def of(self, lengths: list[int]) -> Iterator[list[int]]:
        """The indices of the rows of each batch."""
        order = list(range(len(lengths)))
        if self.pad_to is None:  # similar lengths together, because padding is computed for nothing
            order.sort(key=lambda index: lengths[index], reverse=True)
        for start in range(0, len(order), self.size):
            yield order[start : start + self.size]


BY_LENGTH = Batches()
"""For every model whose predictions depend only on the row."""


class Inputs(Section):
    """The inputs that the tokenizer makes for the model."""

    names: list[InputName] = Field(min_length=1, max_length=3)
    """Names of the inputs; without token_type_ids, all token types are 0."""
    truncation_side: Side = "right"
    """Side on which a long row is truncated."""
    split_special_tokens: bool = False
    """Whether the name of a special token in a text is treated as text."""


class Record(Section):
    """The record of a model; every field except `kind` may be missing."""

    version: Literal[1] = VERSION
    """Version of this schema."""
    kind: ModelKind = "plain"
    """Kind of the model. `plain`: not made by kdqat; `ternary`: made by `quantize`; `export`: in another format."""
    task: str | None = Field(default=None, max_length=1000)
    """Name of the task."""
    task_file: str | None = Field(default=None, max_length=10_000)
    """Path of the YAML file of the task, for a task of the user."""
    labels: list[_Label] | None = Field(default=None, min_length=2, max_length=100_000)
    """Class names in the order of the logits; null: regression."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Least probability of an answered label, as in config.json; null: the model is not multi-label."""
    rows_kind: str = Field(default="text", max_length=1000)
    """Kind of the task."""
    pairs: bool | None = None
    """Whether rows are pairs of texts; null: not recorded."""
    max_length: _Length | None = None
    """Largest number of tokens of a row."""
    inputs: Inputs | None = None
    """Inputs that the tokenizer makes; null: an earlier version wrote the record."""
    batches: Batches = BY_LENGTH
    """How rows were batched for the score."""
    quantization: Quantization | None = None
    """How the model is quantised; null: full precision."""
    encoder: str | None = None
    """Encoder that a teacher was fine-tuned from; for a student, that of its teacher, or the id of a teacher that kdqat
    did not make."""
    network: str | None = Field(default=None, max_length=1000)
    """Network that was trained from random weights; null: the model is an encoder."""
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of the training."""
    settings: dict[str, object] = Field(default_factory=dict)
    """Sections of the resolved recipe that the stage used, as plain values. They only document the model: reading the
    record must not need the plugin or the version of kdqat that defines their names."""
    sources: dict[str, str | None] = Field(default_factory=dict)
    """sha256 of the inputs of the model."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that made the model."""
    format: str | None = None
    """Format of an export."""
    not_to_be_quoted: str | None = Field(default=None, max_length=10_000)
    """Why a score of the model says nothing about the method, for example a shortened training."""
    tokenizer: Digest | None = None
    """sha256 of the tokenizer.json of a packed model."""

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
    def loss(self) -> str | None:
        """The loss of the distillation; None: the model was not distilled."""
        loss = self.distillation.get("loss")
        return loss if isinstance(loss, str) else None

    @property
    def kept_layers(self) -> list[int] | None:
        """Numbers of the teacher's layers that a student kept; None: all."""
        layers = self.distillation.get("layers")
        return layers if isinstance(layers, list) else None

    @property
    def distillation(self) -> dict[str, object]:
        """The section `distillation` of the settings; empty: the model was not distilled."""
        section = self.settings.get("distillation")
        return section if isinstance(section, dict) else {}

    @property
    def row_length(self) -> int:
        """`max_length`, for a model that must have one.

        Raises:
            MissingInputError: the record does not have it.
        """
        if self.max_length is None:
            raise MissingInputError(f"The record of the {self.kind} model has no max_length.", "--max-length")
        return self.max_length

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object, without fields that have their default."""
        return {"version": self.version, "kind": self.kind} | self.model_dump(mode="json", exclude_defaults=True)


def read_record(value: object, where: str) -> Record:
    """Converts a JSON value to a record.

    Args:
        value: the JSON value.
        where: the name of the source in errors.

    Raises:
        MissingInputError: the record has faults (the message has all of them), or a later version wrote it.
    """
    if isinstance(value, dict) and isinstance(version := value.get("version"), int) and version > VERSION:
        raise MissingInputError(
            f"{where} has version {version}, but this kdqat reads version {VERSION}.", "pip install --upgrade kdqat"
        )
    try:
        return parse(Record, value, where)
    except ConfigError as error:
        fix = "the command that made the model, to make it again"
        if "quantization.weights" in error.sentence:
            fix = f"{fix}; or plugins: in params.yaml, if a plugin adds these weights"
        raise MissingInputError(f"{error.sentence}\nThe record is damaged.", fix) from error
