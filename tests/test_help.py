"""`--help` at 80 columns: commands and options in panels, nothing cut off, defaults shown."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kdqat_cli.cli import app
from kdqat_cli.commands.panels import FEW, OPTIONS, panel_of

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options(name: str) -> list[Any]:
    return [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]


def page(monkeypatch: pytest.MonkeyPatch, *command: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_with_many_is_in_a_panel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = options(name)
    titles = [line.removesuffix(":") for line in page(monkeypatch, name) if line.endswith(":") and line[0] != " "]
    if len(own) <= FEW:
        assert "Options" in titles
        return
    panels = [panel_of(option) for option in own]
    assert not [option.name for option, panel in zip(own, panels, strict=True) if panel is None]
    assert [title for title in titles if title != "Arguments"] == [panel for panel in OPTIONS if panel in panels]


def test_an_option_is_in_the_same_panel_everywhere() -> None:
    """But for lines per batch, which only share their name with the rows of a training's step."""
    found: dict[str, set[object]] = {}
    for name in COMMANDS:
        for option in options(name):
            found.setdefault(option.opts[0], set()).add(panel_of(option))
    assert {option for option, panels in found.items() if len(panels) > 1} == {"--batch-size"}
    listed = [f"--{name}" for names in OPTIONS.values() for name in names.split()]
    assert len(set(listed)) == len(listed)
    assert not set(listed) - found.keys() - {"--help"}, "an option that no command has"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_nothing_is_cut_off_at_eighty_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = page(monkeypatch, *([name] if name else []))
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(("...", "…")) and not line.startswith("Usage:")]


def test_commands_are_in_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = page(monkeypatch)
    titles = [line for line in lines if line.endswith(":") and line[0] != " "]
    assert titles == ["Options:", "Projects:", "Pipeline stages:", "Serving:", "Housekeeping:"]
    assert lines[lines.index("Serving:") + 1].split()[0] == "predict"
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


def test_defaults_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(" ".join(page(monkeypatch, "predict")).split())
    for default in ("[default: 32;", "[default: cpu]", "[default: all processors,"):
        assert default in text
