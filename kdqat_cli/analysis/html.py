"""Pieces of HTML: tables, figures and sections, with every text escaped."""

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
    """A value of a table; numbers have two decimals."""
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Mapping[str, object]], caption: str, missing: str | None = None) -> str:
    """Rows as a table whose columns are those of all rows.

    Args:
        rows: column → value.
        caption: what the table shows.
        missing: a row that has this value among its cells is drawn as absent.
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
    """A figure as SVG within the page; what is black in it has the colour of the page's text."""
    file = StringIO()
    with mpl.rc_context(_WEB):
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    # Text without a fill of its own is black, whatever the page's colour is.
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" fill="currentColor" ', 1)
    return f'<figure class="drawing"><div tabindex="0">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading, that the table of contents links to."""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{"".join(parts)}</section>'


def folded(title: str, *parts: str) -> str:
    """Something that the reader opens."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"
