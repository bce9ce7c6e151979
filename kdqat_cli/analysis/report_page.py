"""The report as one page of HTML that needs no network: scores, sizes, curves, figures, attention maps, samples."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from kdqat_cli import __version__
from kdqat_cli.analysis import html
from kdqat_cli.analysis import page_parts as parts
from kdqat_cli.analysis.page_data import RunFolder, analyses, run_folders
from kdqat_cli.analysis.result import Analysis

MARK = '<meta name="generator" content="kdqat report">'
"""A line by which kdqat recognises its own page."""
_FILES = Path(__file__).parent / "page"


def report_page(scores: Sequence[Mapping[str, object]], chart: Sequence[Mapping[str, object]], missing: str) -> str:
    """The HTML of the report of the working folder.

    Args:
        scores: rows of the score table.
        chart: rows of the chart, with the columns task, model, run, mean, MB, ms (None: not measured), and untimed (the
            folder of a packed model that can be measured, or None).
        missing: the word in the score table for a missing score.
    """
    folders, found = run_folders(), analyses()
    controls, maps = parts.attention(found)
    scored = [html.table(scores, "scores", missing), parts.sizes(chart)]
    sections = [section for section in _sections(scored, folders, found, controls) if any(section.content)]
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in sections)
    body = "".join(html.section(name, title, *content) for name, title, content in sections)
    style, script = (_FILES.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data = f'<script type="application/json" id="attention-data">{maps}</script>' if maps else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{MARK}<link rel="icon" href="data:,">'
        f"<title>kdqat report</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#scores">Skip to the scores</a><header><h1>kdqat report</h1>'
        f"{html.paragraph(f'Made by kdqat {__version__}.')}</header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}</main>{data}<script>{script}</script>'
        "</body></html>\n"
    )


class _Section(NamedTuple):
    name: str
    title: str
    content: list[str]


def _sections(scores: list[str], folders: list[RunFolder], found: list[Analysis], controls: str) -> Iterator[_Section]:
    """All sections in their order; one without content is left out of the page."""
    yield _Section("scores", "Scores", scores)
    trained = [html.folded(folder.name, parts.curves(folder)) for folder in folders if folder.history]
    yield _Section("training", "Training", trained)
    for number, one in enumerate(found):
        rows = html.paragraph(f"{one.rows} of {one.of} dev rows. Every model is compared with its teacher.")
        content = [rows, parts.summary(one), parts.figures(one)]
        yield _Section(f"analysis-{number}", f"What quantisation changed: {one.task}", content)
    yield _Section("maps-section", "Attention maps", [controls])
    differing = [parts.differing(one) for one in found]
    yield _Section("rows", "Rows on which model and teacher differ", differing)
    yield _Section("made", "What was run", [parts.made(folder) for folder in folders])
