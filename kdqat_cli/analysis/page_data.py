"""The data of the report page besides the scores: histories, records and machines of the runs, and the analyses."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from kdqat_cli.analysis.result import FILE, Analysis, read_analysis
from kdqat_cli.errors import KdqatError
from kdqat_cli.packing.packed_file import FILE_NAME, packed_record
from kdqat_cli.record import Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import Run, read_run
from kdqat_cli.store.folder import ABOUT, BENCH, HISTORY, MODEL, RUN, model_record
from kdqat_cli.store.places import ANALYSIS, RUNS


@dataclass(frozen=True)
class RunFolder:
    """A folder that a stage wrote.

    Attributes:
        name: its path under runs/.
        record: the record beside its model.
        run: content of run.json; None: the model was made elsewhere.
        history: rows of history.csv, column → value; empty: there is no such file.
    """

    name: str
    record: Record
    run: Run | None
    history: list[dict[str, float]]


def run_folders() -> list[RunFolder]:
    """All readable results under runs/, in the order of their names."""
    found = []
    for about in sorted(RUNS.rglob(f"{MODEL}/{ABOUT}")):
        folder = about.parent.parent
        if any(part.startswith(".") for part in folder.parts):
            continue
        try:
            run = read_run(folder / RUN) if (folder / RUN).is_file() else None
            found.append(
                RunFolder(str(folder.relative_to(RUNS)), model_record(about.parent), run, _history(folder / HISTORY))
            )
        except KdqatError:  # `kdqat report` reports damaged files elsewhere
            continue
    return found


def times(folder: Path) -> dict[str, object]:
    """What is known of a packed model's speed.

    Args:
        folder: folder of the packed model.

    Returns:
        `ms`: milliseconds of the engine at the first shape that `kdqat bench --save` measured. None: nothing is saved,
        the file is damaged, or it is of another packed file. `untimed`: the folder if `kdqat bench` can still measure
        its model, or None.
    """
    ms = _latency(folder)
    return {"ms": ms, "untimed": str(folder) if ms is None and _takes_texts(folder / MODEL / FILE_NAME) else None}


def _latency(folder: Path) -> float | None:
    try:
        saved = json.loads((folder / BENCH).read_text(encoding="utf-8"))
        if saved["sha256"] != file_digest(folder / MODEL / FILE_NAME):
            return None
        return next(float(row["ms"]) for row in saved["latency"] if row["engine"] == "kdqat")
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _takes_texts(packed: Path) -> bool:
    try:
        return packed.is_file() and packed_record(packed).rows_kind == "text"
    except KdqatError:
        return False


def analyses() -> list[Analysis]:
    """All analyses under analysis/, in the order of their folders."""
    return [read_analysis(path.parent) for path in sorted(ANALYSIS.rglob(FILE))]


def _history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
