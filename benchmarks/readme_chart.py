"""Draws the chart of the README: score, size and latency of the models of `make repro`, as an SVG.

    make repro
    kdqat bench runs/movie/packed/map+output-42 --json > bench.json
    python benchmarks/readme_chart.py bench.json docs/images/movie.svg

A student without training has the size and the speed of the trained student, because only the codes differ.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from kdqat_cli.analysis.figures import COLOURS, STYLE

_SHAPE = "1 × 32"


class _Point(NamedTuple):
    name: str
    score: float
    megabytes: float
    milliseconds: float


def points(metrics: Path, bench: dict[str, Any]) -> list[_Point]:
    """The models of the pipeline.

    Args:
        metrics: the folder metrics/movie of the pipeline.
        bench: the result of `kdqat bench` for its packed model.
    """
    times = {row["engine"]: row["ms"] for row in bench["latency"] if row["rows × tokens"] == _SHAPE}
    (packed,) = metrics.glob("packed/*.json")
    teacher, ternary, distilled = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (metrics / "teacher.json", metrics / "ternary.json", packed)
    )
    large, small = teacher["bytes"] / 1e6, distilled["bytes"] / 1e6
    return [
        _Point("teacher, FP32 (torch)", teacher["score"], large, times["torch FP32"]),
        _Point("ternary, no training", ternary["score"], small, times["kdqat"]),
        _Point("ternary, distilled", distilled["score"], small, times["kdqat"]),
    ]


def chart(drawn: list[_Point], machine: str) -> Figure:
    """Score against size, with the latency in the labels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.9, 2.8), layout="constrained")
        axes = figure.subplots()
        for number, one in enumerate(drawn):
            axes.plot([one.megabytes], [one.score], "osD"[number], color=COLOURS[number], ms=8)
            text = f"{one.name}\n{one.score:.1f} %, {one.megabytes:.1f} MB, {one.milliseconds:.1f} ms"
            across, side = (-10, "right") if one.megabytes > 30 else (10, "left")
            at = (one.megabytes, one.score)
            axes.annotate(text, at, (across, 0), textcoords="offset points", va="center", ha=side)
        axes.set(xscale="log", xlabel="size of the weights (MB)", ylabel="accuracy on movie (%)", xlim=(3, 150))
        axes.set_title(f"MiniLM, latency of {_SHAPE} tokens on {machine}")
        axes.margins(y=0.2)
    return figure


def main() -> None:
    """Draws the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="result of `kdqat bench --json`")
    parser.add_argument("out", type=Path, help="file of the chart (.svg, .png)")
    parser.add_argument("--metrics", type=Path, default=Path("metrics/movie"), help="folder of the scores")
    options = parser.parse_args()
    bench = json.loads(options.bench.read_text(encoding="utf-8"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure = chart(points(options.metrics, bench), f"{bench['machine']}, {bench['threads']} threads")
    with mpl.rc_context(STYLE):  # this fixes the names in an SVG, so equal charts have equal bytes
        figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
