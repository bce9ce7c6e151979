"""report: what the pipeline has measured so far, one row a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdqat_cli.errors import MissingInputError
from kdqat_cli.stages.folder import RUN
from kdqat_cli.stages.layout import METRICS, RUNS

_WHAT = {
    "teacher": "teacher, FP32",
    "ternary": "ternary, no training",
    "student": "ternary, distilled",
    "packed": "ternary, packed",
}


def report() -> list[dict[str, Any]]:
    """One row for each file under metrics/: the model, its score, its size, and the seconds of its stage.

    Raises:
        MissingInputError: nothing was measured yet.
    """
    rows = [
        _row(path, task.name, kind, name)
        for task in sorted(METRICS.glob("*"))
        for kind in _WHAT
        for path, name in _measured(task, kind)
    ]
    if not rows:
        raise MissingInputError(f"There are no measurements in {METRICS} yet.", "dvc repro")
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _measured(task: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """(file, run name) of one kind: metrics/TASK/KIND.json, or metrics/TASK/KIND/RUN.json."""
    if (task / f"{kind}.json").is_file():
        yield task / f"{kind}.json", ""
    for path in sorted((task / kind).glob("*.json")):
        yield path, path.stem


def _row(path: Path, task: str, kind: str, name: str) -> dict[str, Any]:
    metrics = json.loads(path.read_text(encoding="utf-8"))
    run = RUNS / task / kind / name / RUN
    return {
        "task": task,
        "model": _WHAT[kind],
        "run": name or None,
        "score": metrics["score"],
        "MB": metrics["bytes"] / 1e6,
        "bits a weight": metrics["bits_per_weight"],
        "FP32 / size": metrics["ratio_to_fp32"],
        "seconds": json.loads(run.read_text(encoding="utf-8"))["seconds"] if run.is_file() else None,
    }


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
