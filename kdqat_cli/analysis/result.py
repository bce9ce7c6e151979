"""The files that `kdqat analyze` writes into a folder.

analysis.json      all results, for `kdqat figure` and `kdqat report --html`
tables/NAME.csv    one file per measure, for spreadsheets
plots/NAME.csv     for measures by layer: one column per model, with means over heads and tokens, for `dvc plots`
"""

import base64
import csv
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdqat_cli.config import Section
from kdqat_cli.errors import MissingInputError
from kdqat_cli.store.figures import Factors, read_section
from kdqat_cli.store.writing import write_json, write_text

FILE = "analysis.json"
MAPS = "maps"
"""The figure of the attention maps, which is no measure."""
DIFFERING = "rows that differ"
"""The statistic of the table `agreement` that counts all rows with another answer than the teacher's."""
VERSION: Literal[1] = 1
Cell = str | int | float | None
Row = dict[str, Cell]
"""One row of a table: column → value."""


class AnalyzedModel(Section):
    """One of the models that were compared."""

    name: str
    """Its name in tables and figures."""
    source: str
    """Its folder or hub id, as the user gave it."""
    factors: Factors
    """Its seed, loss, quantisers and other factors."""
    score: float
    """Score in percent on the measured rows."""
    weights: str | None = None
    """sha256 of its weights."""
    not_to_be_quoted: str | None = None
    """Why its numbers say nothing about the method, for example a smoke run; null: they may be quoted."""

    @property
    def run(self) -> str:
        """Its name without the seed; models that differ only in their seed share a line in a figure."""
        seed = self.factors.seed
        return self.name if seed is None else self.name.removesuffix(f"-{seed}")


class Sentence(Section):
    """The attention maps of one row."""

    row: int
    """Number of the row in the dev split."""
    texts: list[str]
    """Its texts."""
    tokens: list[str]
    """Its L tokens."""
    maps: dict[str, str]
    """Model → base64 of its maps (N, H, L, L), one byte per probability: round(255 · α)."""
    shape: list[int] = Field(min_length=3, max_length=3)
    """N, H and L."""

    def values(self, model: str) -> NDArray[np.float32]:
        """The maps of a model (N, H, L, L), with values from 0 to 1."""
        layers, heads, length = self.shape
        flat = np.frombuffer(base64.b64decode(self.maps[model]), np.uint8)
        return flat.reshape(layers, heads, length, length).astype(np.float32) / np.float32(255)


class Shown(Section):
    """A row on which a model and the teacher differ, in a form to show to users."""

    row: int
    """Number of the row in the dev split."""
    texts: list[str]
    """Its texts."""
    picture: str | None = None
    """base64 of a PNG file."""


class Analysis(Section):
    """analysis.json."""

    version: Literal[1] = VERSION
    """Version of this schema."""
    task: str
    """Name of the task."""
    labels: list[str] | None = None
    """Class names; null: the answers are numbers, or classes per token."""
    rows: int
    """Number of dev rows that were measured."""
    of: int
    """Number of all dev rows."""
    models: list[AnalyzedModel]
    """The models; the teacher is first."""
    tables: dict[str, list[Row]]
    """Measure → its table; the column `model` names the model."""
    not_applicable: list[str] = Field(default_factory=list)
    """Measures that were asked for, but that these models or this task do not have; and `maps` if no model has any."""
    sentences: list[Sentence] = Field(default_factory=list)
    """Attention maps of chosen rows."""
    shown: list[Shown] = Field(default_factory=list)
    """Rows of the table `disagreement`, which has not all rows that differ if they are many."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that measured."""


def encoded(maps: NDArray[np.float32]) -> str:
    """Encodes maps (N, H, L, L), with values from 0 to 1, for `Sentence.maps`."""
    return base64.b64encode(np.rint(255 * maps).astype(np.uint8).tobytes()).decode()


def write_analysis(found: Analysis, folder: Path) -> None:
    """Writes an analysis. It replaces an earlier analysis in the folder, and removes tables that only that one had.

    Raises:
        ConfigError: a file that kdqat did not write would be replaced.
        MissingInputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, found.model_dump(mode="json", exclude_none=True), _holds_analysis)
    plots = {name: by_layer(rows) for name, rows in found.tables.items()}
    _write_tables(folder / "tables", found.tables, "model")
    _write_tables(folder / "plots", {name: rows for name, rows in plots.items() if rows}, "layer")


def read_analysis(folder: Path) -> Analysis:
    """Reads the analysis in a folder.

    Raises:
        MissingInputError: there is no analysis, or it is damaged.
    """
    path = folder / FILE if folder.is_dir() else folder
    if not path.is_file():
        raise MissingInputError(f"There is no analysis in {folder}.", "kdqat analyze --task TASK")
    return read_section(Analysis, path, "kdqat analyze, to make it again")


def _holds_analysis(text: str) -> bool:
    return text.startswith("{") and '"tables": {' in text and '"models": [' in text


def by_layer(rows: list[Row]) -> list[Row]:
    """Converts a table with the columns model, layer and value to one row per layer, with one mean per model."""
    return sorted(_means(rows, ("layer",)), key=lambda row: int(row["layer"] or 0))


def means_of(rows: list[Row]) -> list[Row]:
    """A shorter table: one row per layer, or per rank, and per group of tokens and the like, with one mean per model.

    Args:
        rows: a table with the column `value`, over heads or batches too; of another table there are no means.
    """
    texts = [name for name, cell in rows[0].items() if isinstance(cell, str) and name != "model"]
    return _means(rows, tuple(name for name in (*texts, "layer", "rank") if name in rows[0]))


def _means(rows: list[Row], columns: tuple[str, ...]) -> list[Row]:
    """One row per combination of cells of some columns, with the mean of the column `value` per model."""
    found: dict[tuple[Cell, ...], dict[str, list[float]]] = {}
    for row in rows:
        key = tuple(row.get(column) for column in columns)
        if (value := row.get("value")) is not None and None not in key:
            found.setdefault(key, {}).setdefault(str(row["model"]), []).append(float(value))
    return [
        dict(zip(columns, key, strict=True)) | {model: sum(values) / len(values) for model, values in models.items()}
        for key, models in found.items()
    ]


def _write_tables(folder: Path, tables: dict[str, list[Row]], first: str) -> None:
    def ours(text: str) -> bool:
        return text.startswith(f"{first},")

    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", _csv(rows, first), ours)
    for path in folder.glob("*.csv"):
        if path.stem not in tables and path.is_file() and ours(path.read_text(encoding="utf-8", errors="replace")):
            path.unlink()


def _csv(rows: list[Row], first: str) -> str:
    columns = list(dict.fromkeys([first, *(column for row in rows for column in row)]))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
