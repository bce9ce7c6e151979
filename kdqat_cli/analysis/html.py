"""Parts of HTML pages: tables, figures and sections. All text is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_WEB: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdqat",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def cell(value: object) -> str:
    """A value of a table as text; floats have two decimals."""
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Mapping[str, object]], caption: str, missing: str | None = None) -> str:
    """A table that has every column of every row.

    Args:
        rows: column → value.
        caption: description of the table, for screen readers.
        missing: a row that has this value in a cell is drawn as missing.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{' class=n' if isinstance(row.get(column), int | float) else ''}>{escape(cell(row.get(column)))}</td>"
            for column in columns
        )
        marked = missing is not None and missing in row.values()
        lines.append(f"<tr{' class=missing' if marked else ''}>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption hidden>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )


def drawing(figure: Figure, caption: str) -> str:
    """A figure as SVG in the page; black parts get the colour of the page's text."""
    file = StringIO()
    with mpl.rc_context(_WEB):
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    # Without this attribute, text without its own fill would be black also on a dark page.
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" fill="currentColor" ', 1)
    return f'<figure class="drawing"><div tabindex="0">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading; the table of contents links to it."""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{"".join(parts)}</section>'


def folded(title: str, *parts: str) -> str:
    """A part of the page that is closed at first and that the reader can open."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"
