"""figure: tables of an analysis → PNG and SVG files."""

from pathlib import Path

from kdqat_cli.analysis.figures import Choice, draw, write_figure
from kdqat_cli.analysis.result import read_analysis


def figure(
    names: list[str], analysis: Path, out: Path, sentence: int = 0, layer: int = -1, head: int = 0
) -> list[dict[str, object]]:
    """Draws figures of an analysis.

    Args:
        names: names of figures (analysis/figures.py), or of tables by layer.
        analysis: folder that `analyze` wrote.
        out: output folder for NAME.png and NAME.svg; existing files with these names are replaced.
        sentence: for maps: number, from 0, among the sentences of the analysis.
        layer: for maps: number of the layer, from 0; negative: from the last.
        head: for maps: number of the head, from 0.

    Returns:
        One row per figure: its name and its files.

    Raises:
        ConfigError: there is no such figure.
        MissingInputError: there is no analysis, or it lacks the data of a figure.
    """
    found = read_analysis(analysis)
    drawn = {name: draw(name, found, Choice(sentence, layer, head)) for name in names}
    rows: list[dict[str, object]] = []
    for name, one in drawn.items():
        rows.append({"figure": name, "files": ", ".join(map(str, write_figure(one, out, name)))})
    return rows
