"""The figures of Kim et al. (EMNLP 2022) and of kdqat's own measures, drawn from the tables of an analysis.

Models that differ only in their seed have one line, which is their mean, with a band of one standard deviation. The
colours are those of Okabe and Ito, which colour-blind readers can distinguish. Each line also has its own marker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from kdqat_cli.analysis.result import MAPS, Analysis, AnalyzedModel, Row
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.names import MEASURES

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = "os^Dvp*X"
_WIDTH = 6.9  # inches: the text width of a paper in two columns
STYLE: Any = {  # the exact type would be a literal of all of matplotlib's keys
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdqat",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
_LEAST = 2.25  # inches: smallest height of a bar chart


@dataclass(frozen=True)
class Choice:
    """The choice of an attention map.

    Attributes:
        sentence: number, from 0, among the sentences of the analysis.
        layer: number, from 0; negative: from the last.
        head: number, from 0.
    """

    sentence: int = 0
    layer: int = -1
    head: int = 0


Draw = Callable[[Analysis, Choice], Figure]


@dataclass(frozen=True)
class Drawing:
    """An entry of the catalogue.

    Attributes:
        about: description, with the number of the figure in the paper.
        table: the measure whose table is drawn; "": the attention maps.
        draw: the function that draws it.
    """

    about: str
    table: str
    draw: Draw


def draw(name: str, found: Analysis, choice: Choice) -> Figure:
    """Draws a figure of an analysis.

    Args:
        name: a name in `FIGURES`, or a table with the columns `layer` and `value`.
        found: the analysis.
        choice: which attention map is drawn.

    Raises:
        ConfigError: there is no such figure, or it is not applicable to the models of the analysis.
        MissingInputError: its measure was not taken.
    """
    drawing = FIGURES.get(name)
    measure = name if drawing is None else drawing.table or MAPS
    if drawing is None and name not in {*MEASURES, *found.tables}:
        raise ConfigError(f"There is no figure {name!r}; the figures are {', '.join(FIGURES)}.", "kdqat ls figures")
    if measure in found.not_applicable:
        raise ConfigError(
            f"{name} is not applicable to the models of this analysis, or to the task {found.task}.",
            "kdqat ls figures",
        )
    if not (found.sentences if measure == MAPS else found.tables.get(measure)):
        fix = f"kdqat analyze --task {found.task}" + ("" if measure == MAPS else f" --measure {measure}")
        raise MissingInputError(f"{name} is not measured in this analysis of {found.task}.", fix)
    with mpl.rc_context(STYLE):
        return _by_layer(found, name) if drawing is None else drawing.draw(found, choice)


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes a figure as PNG and SVG; equal figures have equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], metadata={"Software": None}, bbox_inches="tight")
        figure.savefig(paths[1], metadata={"Date": None}, bbox_inches="tight")
    return paths


def runs_of(found: Analysis) -> dict[str, list[AnalyzedModel]]:
    """Name of a run → its models, which differ only in their seed."""
    runs: dict[str, list[AnalyzedModel]] = {}
    for model in found.models:
        runs.setdefault(model.run, []).append(model)
    return runs


def series(
    found: Analysis, table: str, run: Sequence[AnalyzedModel], **wanted: str
) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """The column `value` of a table by layer: layers, mean over a run's models, and their standard deviation.

    Args:
        found: the analysis.
        table: its name.
        run: the models.
        wanted: column → cell; other rows are left out.
    """
    lines = []
    layers: list[int] = []
    for model in run:
        values: dict[int, list[float]] = {}
        for row in found.tables[table]:
            fits = row["model"] == model.name and all(row[column] == cell for column, cell in wanted.items())
            if fits and row["value"] is not None:
                values.setdefault(int(row["layer"] or 0), []).append(float(row["value"]))
        layers = sorted(values)
        lines.append([float(np.mean(values[layer])) for layer in layers])
    array = np.array(lines)
    return layers, array.mean(0), array.std(0, ddof=1) if len(lines) > 1 else np.zeros(len(layers))


def _new(rows: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _line(
    axes: Axes, number: int, label: str, layers: list[int], mean: NDArray[np.float64], spread: NDArray[np.float64]
) -> None:
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(layers, mean, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=3.5, lw=1.2, label=label)
    if spread.any():
        axes.fill_between(layers, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _label(run: str, models: Sequence[AnalyzedModel]) -> str:
    return run if len(models) == 1 else f"{run} ({len(models)} seeds)"


def _lines(axes: Axes, found: Analysis, table: str, title: str, unit: str, **wanted: str) -> None:
    for number, (run, models) in enumerate(runs_of(found).items()):
        _line(axes, number, _label(run, models), *series(found, table, models, **wanted))
    axes.set(title=title, xlabel="layer", ylabel=unit)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def _by_layer(found: Analysis, name: str) -> Figure:
    """Draws any table with the columns `layer` and `value`."""
    if not {"layer", "value"} <= set(found.tables[name][0]):
        raise ConfigError(f"The table {name} has no columns layer and value to draw.", "kdqat ls figures")
    figure, [[axes]] = _new(1, 1, 2.6)
    _lines(axes, found, name, "", name.replace("-", " "))
    _legend(figure, axes)
    return figure


def _ranking(found: Analysis, _: Choice) -> Figure:
    figure, [[left, right]] = _new(1, 2, 2.6)
    _lines(left, found, "cover-length", "order of the best keys", "cover length / sentence length")
    if "ranking-loss" in found.tables:
        _lines(right, found, "ranking-loss", "order of all keys", "ranking loss per query")
    _legend(figure, left)
    return figure


def _ranges(found: Analysis, _: Choice) -> Figure:
    groups = _cells(found, "dynamic-range", "tokens")
    figure, [row] = _new(1, len(groups), 2.6)
    for axes, group in zip(row, groups, strict=True):
        for number, (run, models) in enumerate(runs_of(found).items()):
            for side in ("min", "max"):
                layers, mean, spread = series(found, "dynamic-range", models, tokens=group, side=side)
                _line(axes, number, _label(run, models) if side == "max" else "_", layers, mean, spread)
        axes.set(title=group, xlabel="layer", ylabel="smallest and largest value" if axes is row[0] else "")
    _legend(figure, row[0])
    return figure


def _distances(found: Analysis, _: Choice) -> Figure:
    groups = _cells(found, "attention-distance", "tokens")
    figure, rows = _new(2, len(groups), 4.2)
    for row, part, unit in zip(rows, ("SA-GEN", "SA-PROP"), ("|Δα|", "|Δ‖f(x)‖|"), strict=True):
        for axes, group in zip(row, groups, strict=True):
            _lines(axes, found, "attention-distance", f"{part}, {group}", unit, part=part, tokens=group)
    _legend(figure, rows[0][0])
    return figure


def _ratios(found: Analysis, _: Choice) -> Figure:
    groups = _cells(found, "ranking-ratio", "tokens")
    figure, [row] = _new(1, len(groups), 2.6)
    for axes, group in zip(row, groups, strict=True):
        for number, (_run, models) in enumerate(runs_of(found).items()):
            names = {model.name for model in models}
            heads = [r for r in found.tables["ranking-ratio"] if r["model"] in names and r["tokens"] == group]
            places = [float(r["layer"] or 0) + 0.08 * (number - 1) for r in heads]
            axes.scatter(places, [_number(r) for r in heads], s=3, alpha=0.35, color=COLOURS[number % len(COLOURS)])
        _lines(axes, found, "ranking-ratio", group, "rank / length" if axes is row[0] else "", tokens=group)
    _legend(figure, row[0])
    return figure


def _eigenvalues(found: Analysis, _: Choice) -> Figure:
    figure, [[axes]] = _new(1, 1, 2.6)
    values = {
        run: np.log10(
            [
                value
                for r in found.tables["hessian"]
                if r["model"] in {model.name for model in models} and (value := _number(r)) > 0
            ]
        )
        for run, models in runs_of(found).items()
    }
    values = {run: one for run, one in values.items() if len(one) > 1 and np.ptp(one) > 0}
    for number, (run, own) in enumerate(values.items()):
        grid = np.linspace(
            min(one.min() for one in values.values()) - 0.5, max(one.max() for one in values.values()) + 0.5, 400
        )
        axes.plot(grid, gaussian_kde(own)(grid), color=COLOURS[number % len(COLOURS)], label=run, lw=1.2)
        axes.plot(own, np.zeros(len(own)), "|", color=COLOURS[number % len(COLOURS)], ms=8, alpha=0.6)
    axes.set(xlabel="log₁₀ of an eigenvalue of the Hessian (five largest of each batch)", ylabel="density")
    _legend(figure, axes)
    return figure


def _maps(found: Analysis, choice: Choice) -> Figure:
    if not 0 <= choice.sentence < len(found.sentences):
        raise ConfigError(f"The analysis keeps the maps of {len(found.sentences)} sentences, from 0.", "--sentence 0")
    sentence = found.sentences[choice.sentence]
    layers, heads, _ = sentence.shape
    if not (-layers <= choice.layer < layers and 0 <= choice.head < heads):
        raise ConfigError(f"The models have layers 0 to {layers - 1} and heads 0 to {heads - 1}.", "--layer 0 --head 0")
    columns = min(4, len(sentence.maps))
    rows = -(-len(sentence.maps) // columns)
    figure, grid = _new(rows, columns, 0.6 + rows * 0.85 * _WIDTH / columns)
    cells = [axes for row in grid for axes in row]
    image = None
    most = max(float(sentence.values(name)[choice.layer, choice.head].max()) for name in sentence.maps)
    for axes, name in zip(cells, sentence.maps, strict=False):
        values = sentence.values(name)[choice.layer, choice.head]
        image = axes.imshow(values, vmin=0, vmax=most, cmap="cividis", interpolation="nearest")
        ticks = range(len(sentence.tokens))
        size = min(5.0, 90 / len(sentence.tokens))
        axes.set_xticks(ticks, sentence.tokens, rotation=90, fontsize=size)
        axes.set_yticks(ticks, sentence.tokens, fontsize=size)
        axes.set_title(name)
        axes.grid(visible=False)
    for axes in cells[len(sentence.maps) :]:
        axes.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=cells, shrink=0.6, label="attention probability α")
    figure.suptitle(f"layer {choice.layer % layers}, head {choice.head}; rows: queries, columns: keys", fontsize=8)
    return figure


def _diagnosis(found: Analysis, _: Choice) -> Figure:
    table = [row for row in found.tables["diagnosis"] if row["part"] != "nothing"]
    parts = _cells(found, "diagnosis", "part")[1:]
    runs = {run: models for run, models in runs_of(found).items() if any(r["model"] == models[0].name for r in table)}
    figure, [[axes]] = _new(1, 1, max(_LEAST, 0.16 * len(parts) * (len(runs) + 0.6)))
    height = 0.8 / len(runs)
    for number, (run, models) in enumerate(runs.items()):
        names = {model.name for model in models}
        gains = [[_number(r, "gain") for r in table if r["model"] in names and r["part"] == part] for part in parts]
        places = np.arange(len(parts)) + (number - (len(runs) - 1) / 2) * height
        means = [float(np.mean(values)) if values else 0.0 for values in gains]
        axes.barh(places, means, height, color=COLOURS[(number + 1) % len(COLOURS)], label=_label(run, models))
    axes.set_yticks(range(len(parts)), parts)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.axvline(0, color="#000000", lw=0.8)
    axes.set_xlabel("points gained when this part alone is put back to full precision")
    _legend(figure, axes)
    return figure


def _cells(found: Analysis, table: str, column: str) -> list[str]:
    """The distinct values of a column, in the order of the table."""
    return list(dict.fromkeys(str(row[column]) for row in found.tables[table]))


def _number(row: Row, column: str = "value") -> float:
    return float(row[column] or 0)


FIGURES: dict[str, Drawing] = {
    "hessian": Drawing("density of the Hessian's largest eigenvalues (Fig. 3b)", "hessian", _eigenvalues),
    "ranking": Drawing("cover length ratio and ranking loss by layer (Fig. 4)", "cover-length", _ranking),
    "dynamic-range": Drawing("range of attention outputs by layer (Fig. 5)", "dynamic-range", _ranges),
    "distance": Drawing("SA-GEN and SA-PROP distance by layer (Fig. 6)", "attention-distance", _distances),
    "ranking-ratio": Drawing(
        "rank of [CLS], [SEP] and other keys by layer and head (Fig. 7)", "ranking-ratio", _ratios
    ),
    "maps": Drawing("attention maps of a sentence side by side (Fig. 8)", "", _maps),
    "diagnosis": Drawing("points that each part costs", "diagnosis", _diagnosis),
}
