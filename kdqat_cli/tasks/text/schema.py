"""The YAML file of a text task: the files and columns of its texts and labels."""

from math import isclose
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from kdqat_cli.config import Section
from kdqat_cli.errors import ConfigError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.store.places import EMBEDDED
from kdqat_cli.tasks.labels import SEPARATOR
from kdqat_cli.tasks.task import Hosted, LabelledTask

FILE_FORMATS = (".tsv", ".txt", ".csv", ".jsonl", ".json")


class Columns(Section):
    """Names of the columns to read; dots separate the keys of nested JSON."""

    text: str
    """Column of the text, or of a pair's first text."""
    pair: str | None = None
    """Column of a pair's second text; absent: the task has single texts."""
    label: str
    """Column of the label."""

    def used(self) -> list[str]:
        """The columns in the order text, pair, label."""
        return [column for column in (self.text, self.pair, self.label) if column is not None]

    def twice(self, header: list[str]) -> str | None:
        """The first of these columns that is ambiguous, because it occurs twice in a header; None: none is."""
        return next((column for column in self.used() if header.count(column) > 1), None)


class Hub(Section):
    """The place of a task on the model hub."""

    path: str
    """Id of the data set, with its namespace."""
    name: str | None = None
    """Configuration within the data set."""
    revision: str | None = None
    """Branch, tag or commit; absent: the main branch."""
    splits: dict[str, str]
    """The hub's name of each of our splits."""
    columns: Columns | None = None
    """The hub's columns, if they differ from those of the local files."""


class TextTask(LabelledTask):
    """A task whose rows are texts, or pairs of texts."""

    takes_label_sets: ClassVar[bool] = True

    hub: Hub | None = None
    """The task on the model hub; absent: local files only."""
    files: dict[str, str] = Field(default_factory=dict)
    """Per split, a file relative to the data folder or, for a user's task, to the task file's own folder."""
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    """For splits that share one file: the share of its rows that each split gets. A row's split is determined by its
    texts (split.py). Absent: every split has its own file."""
    quoting: bool | None = None
    """Whether double quotes enclose a cell of a tab or comma separated file; the cell may then contain separators and
    line ends. Absent: they do in a .csv file, and in a .tsv or .txt file a cell that begins with one is refused."""
    separator: str = Field(default=SEPARATOR, min_length=1, max_length=1)
    """What stands between the labels of a cell, if `multi_label`."""
    header: list[str] | None = None
    """Column names of tab or comma separated files that have no header line."""
    columns: Columns
    """Columns of the local files, and of the hub unless `hub.columns` is given."""
    max_length: int = Field(gt=2)
    """Largest number of tokens of a row; longer rows are truncated."""
    skip_bad_rows: bool = False
    """Whether incomplete rows are left out instead of refused."""

    @property
    def pairs(self) -> bool:
        """Whether a row has two texts."""
        return self.columns.pair is not None

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        known = self.files or (self.hub.splits if self.hub else {})
        return ["dev", *(split for split in known if split not in ("train", "dev"))]

    @property
    def hosted(self) -> Hosted:
        """See `Task.hosted`."""
        plain = super().hosted._replace(pipeline="text-classification")
        if self.hub is None:
            return plain
        return plain._replace(dataset=self.hub.path, config=self.hub.name, split=self.hub.splits["dev"])

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """An encoder: see `Task.source`.

        Raises:
            ConfigError: an option has no meaning for the task.
            MissingInputError: there is no such folder, and the name does not have the form of a hub id.
        """
        if network is not None:
            raise ConfigError(f"--network has no meaning for task {self.name}, whose rows are text.", "--encoder")
        source = encoder or default
        if source != EMBEDDED:
            refuse_absent(source, None)
        return source

    @property
    def row(self) -> dict[str, object]:
        """See `Task.row`."""
        return {"rows": f"{self.max_length} tokens", "files": self.files.get("dev", "-")}

    def faults(self) -> list[str]:
        """See `Task.faults`."""
        faults = super().faults()
        if twice := self.columns.twice(self.header or []):
            faults.append(f"header: the column {twice!r} occurs twice.")
        if not self.files and not self.hub:
            faults.append("files or hub must be given.")
        sources = {"files": self.files} if self.files else {}
        if self.hub:
            sources["hub.splits"] = self.hub.splits
        for where, splits in sources.items():
            missing = [split for split in ("train", "dev") if split not in splits]
            if missing:
                faults.append(f"{where}: {' and '.join(missing)} must be given.")
        for split, file in self.files.items():
            if Path(file).suffix not in FILE_FORMATS:
                faults.append(f"files.{split}: {file} must end in one of {', '.join(FILE_FORMATS)}.")
        faults += self._share_faults()
        if self.separator != SEPARATOR and not self.multi_label:
            faults.append("separator: it has a meaning for multi_label only.")
        if parted := [label for label in self.labels or [] if self.multi_label and self.separator in label]:
            faults.append(f"labels: {parted[0]} has the separator {self.separator!r}, which stands between labels.")
        if self.hub and self.hub.columns and (self.hub.columns.pair is None) != (self.columns.pair is None):
            faults.append("hub.columns: pair must be given here and in columns, or in neither.")
        return faults

    def _share_faults(self) -> list[str]:
        if self.shares is None:
            return []
        if absent := [split for split in self.shares if split not in self.files]:
            return [f"shares: files has no {absent[0]}."]
        if len({self.files[split] for split in self.shares}) > 1:
            return ["shares: files must name one file for all of these splits."]
        total = sum(self.shares.values())
        return [] if isclose(total, 1, abs_tol=1e-6) else [f"shares: the sum must be 1, but it is {total:g}."]
