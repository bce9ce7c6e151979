"""The page of `dvc plots show`: every curve of a training, drawn without a network."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.commands import REPOSITORY, run

HISTORY = """\
step,epoch,loss,loss_map,score
1,0.25,3.0,1.0,
2,0.5,2.0,0.5,
4,1.0,1.5,0.25,60.0
8,2.0,1.0,0.125,62.5
"""
PIPELINE = "stages:\n  s:\n    cmd: 'true'\n    plots:\n      - history.csv: {x: step, y: loss}\n"
# The part of a browser that the page needs: elements with attributes and children.
BROWSER = """\
class Element {
    constructor(name) { this.name = name; this.attributes = {}; this.children = []; this.style = {}; }
    setAttribute(key, value) { this.attributes[key] = String(value); }
    append(...children) { this.children.push(...children); }
}
const root = new Element("body");
const document = {
    createElement: (name) => new Element(name),
    createElementNS: (space, name) => new Element(name),
    querySelector: () => root,
};
"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The page of `dvc plots show` for a history, with the repository's configuration."""
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    shutil.copy(REPOSITORY / ".dvc/config", tmp_path / ".dvc/config")
    shutil.copytree(REPOSITORY / ".dvc/plots", tmp_path / ".dvc/plots")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (tmp_path / "history.csv").write_text(HISTORY, encoding="utf-8")
    run(tmp_path, "dvc", "plots", "show")
    return (tmp_path / "dvc_plots/index.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_the_web(page: str) -> None:
    assert not re.search(r"<script[^>]+src|<link|@import|url\(", page)
    assert "vegaEmbed('#history_csv', spec);" in page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_every_column_is_a_curve_and_empty_cells_are_no_points(page: str, tmp_path: Path) -> None:
    figures = [child for child in drawn_by(page, tmp_path) if child["name"] == "figure"]
    curves = {figure["children"][0]["textContent"]: points(figure) for figure in figures}
    assert set(curves) == {"epoch", "loss", "loss_map", "score"}
    assert [len(curves[name]) for name in ("loss", "loss_map", "score")] == [4, 4, 2]
    heights = [y for _, y in curves["loss"]]
    assert heights == sorted(heights), "the loss falls; y grows downwards"
    across = [x for x, _ in curves["loss"]]
    assert [(x - across[0]) / (across[-1] - across[0]) for x in across] == pytest.approx([0, 1 / 7, 3 / 7, 1])


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_confusion_is_a_table_of_counts(page: str, tmp_path: Path) -> None:
    (tmp_path / "confusion.csv").write_text("actual,predicted\n0,0\n0,1\n1,1\n1,1\n", encoding="utf-8")
    plots = "stages:\n  s:\n    cmd: 'true'\n    plots:\n      - confusion.csv:\n"
    plots += "          {x: actual, y: predicted, template: confusion}\n"
    (tmp_path / "dvc.yaml").write_text(plots, encoding="utf-8")
    run(tmp_path, "dvc", "plots", "show")
    drawn = (tmp_path / "dvc_plots/index.html").read_text(encoding="utf-8")
    (figure,) = [child for child in drawn_by(drawn, tmp_path) if child["name"] == "figure"]
    rows = [[cell["textContent"] for cell in row["children"]] for row in figure["children"][1]["children"]]
    assert rows[0][1:] == ["0", "1"]
    assert rows[1:] == [["0", "1", "0"], ["1", "1", "2"]]


def drawn_by(page: str, folder: Path) -> list[dict[str, Any]]:
    """The elements that the program of the page makes."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    program = folder / "page.js"
    program.write_text("\n".join([BROWSER, *scripts, "console.log(JSON.stringify(root));"]), encoding="utf-8")
    done = subprocess.run(["node", str(program)], capture_output=True, text=True, check=True)
    elements: list[dict[str, Any]] = json.loads(done.stdout)["children"]
    return elements


def points(figure: dict[str, Any]) -> list[tuple[float, ...]]:
    (line,) = [child for child in figure["children"][1]["children"] if child["name"] == "polyline"]
    return [tuple(map(float, place.split(","))) for place in line["attributes"]["points"].split()]
