"""The report as one page of HTML that needs no network: scores, sizes, curves, figures, attention maps, samples."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from kdqat_cli import __version__
from kdqat_cli.analysis import html
from kdqat_cli.analysis import page_parts as parts
from kdqat_cli.analysis.page_data import analyses, run_folders

MARK = '<meta name="generator" content="kdqat report">'
"""Tells the page from any other file."""
_FILES = Path(__file__).parent / "page"


def report_page(scores: Sequence[Mapping[str, object]], chart: Sequence[Mapping[str, object]], missing: str) -> str:
    """The page of the working folder.

    Args:
        scores: rows of the score table.
        chart: rows of the chart, with the columns task, model, run, mean, MB, and ms where a speed was measured.
        missing: what the score table says of a score that is not there.
    """
    folders, found = run_folders(), analyses()
    controls, maps = parts.attention(found)
    trained = [folder for folder in folders if any("loss" in row for row in folder.history)]
    sections = {
        "scores": ("Scores", [html.table(scores, "scores", missing), parts.sizes(chart)]),
        "training": ("Training", [html.folded(folder.name, parts.curves(folder)) for folder in trained]),
        **{
            f"analysis-{number}": (
                f"What quantisation changed: {one.task}",
                [
                    html.paragraph(f"{one.rows} of {one.of} dev rows. Every model is compared with its teacher."),
                    parts.summary(one),
                    parts.figures(one),
                ],
            )
            for number, one in enumerate(found)
        },
        "maps-section": ("Attention maps", [controls]),
        "rows": ("Rows on which model and teacher differ", [parts.differing(one) for one in found]),
        "made": ("What was run", [parts.made(folder) for folder in folders]),
    }
    kept = {name: (title, content) for name, (title, content) in sections.items() if any(content)}
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, (title, _) in kept.items())
    body = "".join(html.section(name, title, *content) for name, (title, content) in kept.items())
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
