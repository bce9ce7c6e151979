"""`kdqat ls`: each catalogue lists what the code has, as JSON and as a table."""

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kdqat_cli import names
from kdqat_cli.analysis.figures import FIGURES
from kdqat_cli.analysis.published import published_names
from kdqat_cli.cli import app
from kdqat_cli.distillation.losses import LOSSES
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.nets import networks
from kdqat_cli.params import recipe_names
from kdqat_cli.projects.project import pipeline_names
from kdqat_cli.stages.ls import ls
from kdqat_cli.store.places import Listed
from kdqat_cli.tasks.registry import task_names
from tests.test_recipes import GLUE

CATALOGUES = typing.get_args(Listed)
KEYS: dict[Listed, tuple[str, set[str]]] = {
    "tasks": ("task", set(task_names())),
    "losses": ("loss", set(names.LOSSES)),
    "recipes": ("recipe", set(recipe_names())),
    "pipelines": ("pipeline", set(pipeline_names())),
    "encoders": ("model type", set(FAMILIES)),
    "networks": ("network", set(networks())),
    "formats": ("format", set(names.FORMATS)),
    "measures": ("measure", set(names.MEASURES)),
    "figures": ("figure", set(FIGURES)),
    "published": ("published", set(published_names())),
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ls", *arguments])


def listed(what: str) -> dict[str, dict[str, Any]]:
    done = invoke(what, "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    key = KEYS[typing.cast(Listed, what)][0]
    return {row[key]: row for row in json.loads(done.stdout)}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_catalogue_is_tested() -> None:
    assert set(CATALOGUES) == KEYS.keys()


@pytest.mark.parametrize("what", CATALOGUES)
def test_json_has_a_row_per_entry(what: Listed) -> None:
    rows = listed(what)
    assert rows.keys() == KEYS[what][1]
    assert list(rows.values()) == ls(what)
    columns = {tuple(row) for row in rows.values()}
    assert len(columns) == 1, "every row has the same columns"
    assert all(value != "" for row in rows.values() for value in row.values())


@pytest.mark.parametrize("what", CATALOGUES)
def test_a_table_has_a_heading_and_a_line_per_entry(what: Listed) -> None:
    done = invoke(what)
    assert done.exit_code == 0
    heading, *lines = [line for line in done.stdout.splitlines() if line.strip()]
    rows = ls(what)
    assert all(column in heading for column in rows[0])
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        for value in row.values():
            assert (f"{value:,}" if isinstance(value, int) else str(value)) in line


def test_the_columns_of_tasks() -> None:
    rows = listed("tasks")
    assert (rows["rte"]["labels"], rows["stsb"]["labels"], rows["klue-tc"]["labels"]) == ("2", "number", "7")
    assert (rows["cola"]["metric"], rows["cola"]["rows"]) == ("matthews", "64 tokens")
    assert rows["rte"]["files"] == "glue/RTE/dev.tsv"


def test_the_users_tasks_are_listed(tmp_path: Path, tiny_task: Path) -> None:
    (tmp_path / "tasks").symlink_to(tiny_task)
    row = listed("tasks")["tiny"]
    assert (row["title"], row["labels"], row["rows"]) == ("Whether a sentence is sad or glad", "2", "24 tokens")


def test_every_loss_names_its_source() -> None:
    rows = listed("losses")
    assert all(any(word in row["source"] for word in ("Eq.", "Table", "section")) for row in rows.values())
    assert {name: row["compares"] for name, row in rows.items()} == {name: loss.about for name, loss in LOSSES.items()}


def test_the_differences_of_the_recipes() -> None:
    rows = listed("recipes")
    paper, clean = rows["paper"], rows["clean"]
    assert (paper["optimizer"], clean["optimizer"]) == ("bert-adam", "adamw")
    assert (paper["activation scale"], clean["activation scale"]) == ("batch", "token")
    assert (paper["padding"], clean["padding"]) == ("max_length", "longest")
    assert (paper["learning rate"], clean["learning rate"]) == ("2e-05", "0.0001")
    own = set(paper["tasks of their own"].split(", "))
    assert own == set(GLUE) - {"stsb"} | {"klue-tc", "nsmc"}, "STS-B has the values of the recipe"
    assert clean["tasks of their own"] == "-"


def test_an_unknown_catalogue_is_refused_and_the_known_ones_are_named() -> None:
    done = invoke("nonsense")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "nonsense" in done.stderr
    assert all(what in done.stderr for what in CATALOGUES)
    assert "Traceback" not in done.stderr
    assert invoke().exit_code == 2, "there is nothing to list"
