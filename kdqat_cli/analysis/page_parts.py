"""The sections of the report page."""

import json
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from kdqat_cli.analysis import html
from kdqat_cli.analysis.figures import COLOURS, FIGURES, STYLE, Choice, draw
from kdqat_cli.analysis.page_data import RunFolder
from kdqat_cli.analysis.result import DIFFERING, Analysis, means_of

_MOST_MAPS = 3_000_000  # characters of attention maps in a page
_MOST_NUMBERS = 400  # rows of a figure's table that are shown one by one; a longer table is shown as means
_MOST_SHOWN = 40  # rows on which a model and its teacher differ
_WIDTH = 6.9  # inches


def sizes(rows: Sequence[Mapping[str, object]]) -> str:
    """A chart of score against size of the weights file, one point per row; "": no row has both.

    A line below says how to measure the models that have no time.
    """
    points = [
        (str(row["task"]), f"{row['model']} {row['run'] or ''}".strip(), row["MB"], row["mean"], row.get("ms"))
        for row in rows
        if row.get("mean") is not None and row.get("MB") is not None
    ]
    if not points:
        return ""
    tasks = list(dict.fromkeys(task for task, *_ in points))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2.8 * len(tasks)), layout="constrained")
        for axes, task in zip(figure.subplots(len(tasks), 1, squeeze=False)[:, 0], tasks, strict=True):
            for number, (_, label, size, mean, latency) in enumerate(one for one in points if one[0] == task):
                text = label if latency is None else f"{label}, {latency:.1f} ms"
                colour = COLOURS[number % len(COLOURS)]
                axes.plot([size], [mean], "osDv^Pp*X"[number % 9], color=colour, label=text, ms=7)
            axes.set(xscale="log", xlabel="size of the weights (MB)", ylabel="score (%)", title=task)
            low, high = axes.dataLim.intervalx
            axes.set_xlim(low / 1.6, high * 1.6)  # at least one tick: they are 1, 2 and 5 of each decade
            axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.margins(y=0.1)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    caption = "Score against size of the weights file; models at the left are smaller, models at the top are better."
    untimed = [row["untimed"] for row in rows if row.get("untimed")]
    how = f"kdqat bench {untimed[0]} --save measures the first; the next report shows it." if untimed else ""
    missing = html.paragraph(f"Packed models without a measured time: {len(untimed)}. {how}") if untimed else ""
    return html.drawing(figure, caption) + missing


def curves(folder: RunFolder) -> str:
    """A chart of all loss terms and of the dev score of a training."""
    columns = list(dict.fromkeys(name for row in folder.history for name in row))
    losses = [name for name in columns if name.startswith("loss")]
    losses = losses[1:] if len(losses) == 2 else losses  # without the sum, if there is only one term
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, name in enumerate(losses):
            points = [(row["step"], row[name]) for row in folder.history if name in row]
            label = "all" if name == "loss" else name.removeprefix("loss_")
            left.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], lw=1.2, label=label)
        left.set(xlabel="step", ylabel="loss", title="loss and its terms")
        left.legend()
        scores = [(row["step"], row["score"]) for row in folder.history if "score" in row]
        if scores:
            right.plot(*zip(*scores, strict=True), "o-", color=COLOURS[1], ms=3.5, lw=1.2)
        right.set(xlabel="step", ylabel="score (%)", title="dev score")
    return html.drawing(figure, f"Training of {folder.name}.")


def figures(found: Analysis) -> str:
    """All figures for which an analysis has a table, with their numbers; and what the models do not have."""
    parts = []
    for name, one in FIGURES.items():
        if one.table and one.table in found.tables:
            rows = found.tables[one.table]
            parts.append(html.drawing(draw(name, found, Choice()), f"{one.about[:1].upper()}{one.about[1:]}."))
            if len(rows) > _MOST_NUMBERS and (means := means_of(rows)):
                parts.append(html.folded("numbers, as means", html.table(means, f"means of the numbers of {name}")))
            else:
                parts.append(html.folded("numbers", html.table(rows, f"numbers of {name}")))
    if found.not_applicable:
        parts.append(html.paragraph(f"Not applicable to these models: {', '.join(found.not_applicable)}."))
    return "".join(parts)


def summary(found: Analysis) -> str:
    """A table of the agreement of each model with the teacher."""
    rows: dict[str, dict[str, object]] = {}
    for model in found.models:
        mark = ", smoke run, not to be quoted" if model.not_to_be_quoted else ""
        rows[model.name] = {"model": model.name + mark, f"score on {found.rows} rows": model.score}
    for row in found.tables.get("agreement", []):
        if row["statistic"] != DIFFERING:  # the section of these rows shows it
            rows[str(row["model"])][str(row["statistic"])] = row["value"]
    return html.table(list(rows.values()), f"agreement with the teacher on {found.task}")


def differing(found: Analysis) -> str:
    """For each model, the rows on which its answer differs from its teacher's."""
    shown = {one.row: one for one in found.shown}
    counts = {row["model"]: row["value"] for row in found.tables.get("agreement", []) if row["statistic"] == DIFFERING}
    parts = []
    for model in found.models:
        table = [row for row in found.tables.get("disagreement", []) if row["model"] == model.name]
        if not table:
            continue
        lines = []
        for row in table[:_MOST_SHOWN]:
            one = shown.get(int(row["row"] or 0))
            said = "" if one is None else "<br>".join(escape(text) for text in one.texts)
            if one is not None and one.picture:
                said += f'<img class="picture" alt="row {one.row}" src="data:image/png;base64,{one.picture}">'
            answers = "".join(f"<td>{escape(html.cell(row.get(name)))}</td>" for name in ("label", "teacher", "answer"))
            lines.append(f'<tr><td class="n">{row["row"]}</td><td class="sample">{said}</td>{answers}</tr>')
        head = "".join(f'<th scope="col">{name}</th>' for name in ("row", "content", "label", "teacher", "this model"))
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        title = f"{model.name}: {counts.get(model.name, len(table))} of {found.rows} rows"
        title += f"; {len(lines)} are shown" if len(lines) < len(table) else ""
        parts.append(html.folded(title, f'<div class="scroll">{body}</div>'))
    return "".join(parts)


def attention(found: Sequence[Analysis]) -> tuple[str, str]:
    """The controls for attention maps, and the maps as JSON; both are "" if there are no maps."""
    kept: list[dict[str, object]] = []
    room = _MOST_MAPS
    for one in found:
        for sentence in one.sentences:
            needed = sum(map(len, sentence.maps.values()))
            if needed <= room:
                room -= needed
                kept.append({**sentence.model_dump(include={"tokens", "maps", "shape"}), "task": one.task,
                             "text": " / ".join(sentence.texts)})  # fmt: skip
    if not kept:
        return "", ""
    options = "".join(
        f'<option value="{number}">{escape(str(one["task"]))}: {escape(str(one["text"])[:80])}</option>'
        for number, one in enumerate(kept)
    )
    controls = (
        f'<div class="controls"><label>Sentence <select id="sentence">{options}</select></label>'
        '<label>Layer <output id="layer-number">0</output><input id="layer" type="range" min="0" value="0"></label>'
        '<label>Head <output id="head-number">0</output><input id="head" type="range" min="0" value="0"></label></div>'
        '<p id="said" class="skip" aria-live="polite"></p><div id="maps" class="maps"></div>'
        "<noscript><p>The maps need JavaScript; the figures above do not.</p></noscript>"
    )
    return controls, json.dumps(kept, ensure_ascii=False).replace("</", "<\\/")


def made(folder: RunFolder) -> str:
    """How a result was made: recipe, sources, versions and machine."""
    record, run = folder.record, folder.run
    about = {
        "made by": record.kind,
        "seed": record.seed,
        **{f"sha256 of {name}": value for name, value in record.sources.items()},
        **record.versions,
        **({} if run is None else run.to_json()),
    }
    rows = [{"what": name, "value": str(value)} for name, value in about.items() if value is not None]
    recipe = yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True) if record.settings else ""
    return html.folded(
        folder.name,
        html.table(rows, f"how {folder.name} was made"),
        f"<h3>Recipe</h3><pre>{escape(recipe)}</pre>" if recipe else "",
    )
