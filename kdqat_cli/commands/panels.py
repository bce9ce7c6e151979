"""The panels of `--help`: headings that group the commands, and the options of a command that has many.

`OPTIONS` has the options of each panel by name, so an option is in the same panel in every command. Only an option
that means something else in one command names its panel where it is defined (typer's `rich_help_panel`). A panel is a
heading in plain text. Rich's boxes would leave half of 80 columns for the descriptions, and break the lists of values
within words.
"""

from typing import Any

PROJECTS = "Projects"
STAGES = "Pipeline stages"
SERVING = "Serving"
UPKEEP = "Housekeeping"

SPEED = "Speed"
OPTIONS = {
    "Task and data": "task name pipeline data-dir limit rows sentence max-length file text-column pair-column "
    "label-column multi-label quoting skip-bad-rows",
    "Models": "teacher student encoder network allow-weak-teacher",
    "Settings": "recipe set over seed seeds stop",
    "Training (default: the recipe's values)": "epochs max-steps learning-rate batch-size eval-every precision",
    "Distillation (default: the recipe's values)": "method loss mix beta temperature layers hidden-layers",
    "Quantisation (default: the recipe's values)": "weights activations bits bucket",
    SPEED: "devices device threads jobs ray",
    "Output": "out force format half codec measure details min-score top-k threshold dry json quiet help",
}
"""Panel → the names of its options, without dashes. The panels are in the order of the help."""
FEW = 8
"""A command with at most so many options has them in one list."""

_PANEL = {f"--{name}": panel for panel, names in OPTIONS.items() for name in names.split()}
_WIDEST = 30  # columns of names; the description of a longer name begins in the next line


def panel_of(option: Any) -> str | None:
    """The panel of a typer option; None: it has none."""
    return option.rich_help_panel or _PANEL.get(option.opts[0])


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes the arguments and options of a command.

    Args:
        command: a typer command.
        ctx: its context.
        formatter: takes the text.
    """
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], **{panel: [] for panel in OPTIONS}}
    parameters = command.get_params(ctx)
    few = sum(parameter.param_type_name == "option" for parameter in parameters) <= FEW + 1  # --help is one more
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            panel = "Arguments"
        else:
            panel = "Options" if few else panel_of(parameter) or "Options"
        panels[panel].append(_record(parameter, ctx))
    _write(formatter, panels)


def write_commands(group: Any, ctx: Any, formatter: Any) -> None:
    """Writes the commands of a group with their summaries.

    Args:
        group: a typer group.
        ctx: its context.
        formatter: takes the text.
    """
    names = group.list_commands(ctx)
    room = formatter.width - 6 - max(map(len, names))
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        one = group.get_command(ctx, name)
        panels.setdefault(one.rich_help_panel, []).append((name, one.get_short_help_str(room)))
    _write(formatter, panels)


def _record(parameter: Any, ctx: Any) -> tuple[str, str]:
    """Name and description of an argument or option; the type is of one value, default and range share brackets."""
    name, text = parameter.get_help_record(ctx)
    name = name.replace(" range>", ">").replace("<list[", "<").replace("]>", ">")
    return name, text.replace("]  [", "; ").replace("  [", " [")


def _write(formatter: Any, panels: dict[str, list[tuple[str, str]]]) -> None:
    """Writes panels whose descriptions all begin in the same column."""
    width = min(_WIDEST, max(len(name) for panel in panels.values() for name, _ in panel))
    for title, records in panels.items():
        if records:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], col_max=_WIDEST)
