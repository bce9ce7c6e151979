"""Writes the results of on_gpu.py as JSON and as Markdown tables, with only the standard library."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write(folder: Path, report: dict[str, Any]) -> None:
    """Writes on_gpu.json and on_gpu.md, each completely or not at all."""
    texts = {"on_gpu.json": json.dumps(report, indent=2) + "\n", "on_gpu.md": markdown(report)}
    for name, text in texts.items():
        aside = folder / f"{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)


def markdown(report: dict[str, Any]) -> str:
    """The tables; a missing measurement has no table.

    Args:
        report: `date`, `device`, `seconds` of the whole run, and `parts` (records of on_gpu_parts.py as JSON).
    """
    results = {part["name"]: part["result"] for part in report["parts"] if part["result"]}
    training = [step for name, result in results.items() if name.startswith("training ") for step in result["steps"]]
    packed = results.get("packed", {})
    sections = [
        f"# kdqat on a {'GPU' if report['device'] == 'cuda' else 'processor, small sizes: no measurement'}",
        _machine(report, results.get("machine")),
        _parts(report["parts"]),
        _training(training),
        _linear(packed.get("linear")),
        _model(packed.get("model")),
        _movie(results),
        *map(_failure, report["parts"]),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _machine(report: dict[str, Any], facts: dict[str, Any] | None) -> str:
    line = f"{report['date']}, {report['seconds']:.0f} seconds."
    if not facts:
        return line
    if "gpu" in facts:
        line = f"{facts['gpu']} ({facts['gpu_memory_mb'] / 1e3:.0f} GB, CUDA {facts['cuda']}); {line}"
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    kernel = f"engine's kernel: {facts['kernel']}"
    if facts["kernel"] == "torch":
        kernel = "no native library was built: on the processor torch computes"
    if not facts.get("triton_runs", True):
        kernel += "; Triton does not run: torch's int8 product multiplies packed weights"
    return f"{line} {facts['processor']}, {facts['cores']} cores; {kernel}. Python {facts['python']}, {packages}."


def _parts(parts: Sequence[dict[str, Any]]) -> str:
    rows = [(part["name"], part["state"], part["seconds"], part["resident_mb"], part["note"]) for part in parts]
    return _table(("part", "state", "seconds", "MB resident", "note"), rows)


def _training(steps: Sequence[dict[str, Any]]) -> str:
    head = (
        "shape",
        "recipe, loss, precision",
        "s per step",
        "s of the parts",
        "ratio",
        "min to max",
        "GB",
        "GB of the parts",
    )
    rows = []
    for step in steps:
        spread = f"{step['lowest_ratio']:.2f} to {step['highest_ratio']:.2f}"
        times = [f"{step['seconds']:.4f}", f"{step['parts_seconds']:.4f}", step["ratio"], spread]
        rows.append([step["shape"], step["label"], *times, step["gb"], step["parts_gb"]])
    return _section("A training step beside its parts (plain teacher's forward, plain student's step)", head, rows)


def _linear(linear: dict[str, Any] | None) -> str:
    if not linear:
        return ""
    engines = [name for name in linear["rows"][0] if name != "rows"]
    rows = [[row["rows"], *(row[name] for name in engines)] for row in linear["rows"]]
    title = f"A linear {linear['size']} → {linear['size']}, microseconds on the GPU"
    crossed = [
        f"{other} is at least as fast as kdqat from {rows} rows on."
        if rows
        else f"kdqat is faster than {other} at the most rows."
        for other, rows in linear["crossover"].items()
    ]
    return "\n\n".join([_section(title, ("rows", *engines), rows), " ".join(crossed)])


def _model(model: Sequence[dict[str, Any]] | None) -> str:
    keys = ("engine", "ms", "gpu_ms", "weights_mb", "peak_mb")
    rows = [[f"{row['rows']} × {row['tokens']}", *(row[key] for key in keys)] for row in model or []]
    head = ("rows × tokens", "engine", "ms as called", "ms of the GPU", "MB of weights", "MB at most")
    return _section("A packed model", head, rows)


def _movie(results: dict[str, Any]) -> str:
    keys = ("score", "steps", "seconds", "threads", "gpu_memory_mb")
    names = ("teacher", "student, GPU", "student, processor", "packed student, GPU", "packed student, processor")
    rows = [[name, *(results[name].get(key) for key in keys)] for name in names if name in results]
    head = ("model", "score", "steps", "seconds", "threads", "MB on the GPU at most")
    return _section("Task movie, from a half-precision encoder", head, rows)


def _failure(part: dict[str, Any]) -> str:
    if not part["last_lines"]:
        return ""
    lines = "\n".join(f"    {line}" for line in part["last_lines"])
    title = f"## {part['name']}: {part['state']}, {part['note']}"
    return f"{title}\n\nIts last lines; all of them are in on_gpu.log.\n\n{lines}"


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return f"## {title}\n\n{_table(head, rows)}" if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")
