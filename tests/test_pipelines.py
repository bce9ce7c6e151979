"""The folders under pipelines/: each resolves and is valid, and one runs completely on a tiny encoder and task."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from kdqat_cli.analysis.published import load_published
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.schema import TextTask
from tests.commands import REPOSITORY, run
from tests.conftest import NEUTRAL

FOLDERS = sorted(path.parent for path in (REPOSITORY / "pipelines").glob("*/dvc.yaml"))
FIGURES = REPOSITORY / "pipelines/figures"
POLINO = sorted(folder for folder in FOLDERS if folder.name.startswith("polino-"))
PARAMS = """\
recipe: clean
encoder: {encoder}
data_dir: null
published: null
tasks: [tiny]
axes:
  runs:
    - {{name: as-it-is, options: --loss map+output}}
    - {{name: no-clip, options: --loss map+output --set quantization.weight_clip=null}}
seeds: [1, 2]
settings:
  tiny:
    teacher: {{epochs: 12, batch_size: 8, learning_rate: 4e-3}}
    student: {{epochs: 1, batch_size: 8, learning_rate: 1e-3}}
    quantization: {{}}
    distillation: {{}}
"""

pytestmark = pytest.mark.pipeline


def test_the_common_part_of_the_pipelines_is_in_one_file() -> None:
    for folder in set(FOLDERS) - {FIGURES}:
        stages = "polino-stages.yaml" if folder in POLINO else "stages.yaml"
        assert folder.joinpath("dvc.yaml").readlink() == Path("..", stages)
    # The pipeline of the figures has additional stages; its common stages are equal word for word.
    shared, figures = (
        yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        for path in (REPOSITORY / "pipelines/stages.yaml", FIGURES / "dvc.yaml")
    )
    del shared["report"]
    assert figures.items() >= shared.items()


# One folder per set of stages; the others differ only in their params.yaml, and would take as long.
_FIRST = ("table-2-glue", "polino-digits", "polino-tables-21-23", "figures")


@pytest.mark.parametrize(
    "folder",
    [folder if folder.name in _FIRST else pytest.param(folder, marks=pytest.mark.slow) for folder in FOLDERS],
    ids=lambda folder: folder.name,
)
def test_a_pipeline_resolves(folder: Path, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(folder / name, tmp_path)
    run(tmp_path, "kdqat", "validate")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    listed = run(tmp_path, "dvc", "stage", "list", "--name-only").stdout.split()
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    assert {f"teacher@{task}" for task in params["tasks"]} <= set(listed)
    students = [name for name in listed if name.startswith(("student@", "after@", "learned@", "points@"))]
    assert len(students) == len([name for name in listed if name.startswith("evaluate@")])
    assert len(students) % (len(params["tasks"]) * len(params["seeds"])) == 0
    groups = json.loads(run(tmp_path, "kdqat", "report", "--json").stdout)
    assert all(group["missing"] for group in groups)
    dry = run(tmp_path, "kdqat", "repro", "--dry").stdout
    assert all(name in dry for name in listed)


@pytest.mark.parametrize("folder", POLINO, ids=lambda folder: folder.name)
def test_all_quantised_runs_of_polino_et_al_are_packed_and_have_a_published_row(folder: Path) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    axes = params["axes"]
    names = [run["name"] for key in ("after", "learned", "points") for run in axes[key]]
    assert axes["quantised"] == names
    if params["published"] is None:
        return
    runs = {f"{student['name']}-{name}" for student in axes["students"] for name in ["plain", "full", *names]}
    table = load_published(params["published"])
    assert table.scores.keys() <= {"teacher", *runs}
    assert {task for cells in table.scores.values() for task in cells} == set(params["tasks"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_setting_of_one_task_does_not_change_another_task(folder: Path) -> None:
    """With a shared anchor, `dvc exp run -S settings.rte.student.epochs=1` would change every task."""
    tokens = yaml.scan((folder / "params.yaml").read_text(encoding="utf-8"))
    assert not any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in tokens)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository in git that DVC reads."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder)
    listed = run(REPOSITORY, "git", "ls-files", "-z", ".dvc", "pipelines", "kdqat_cli/recipes").stdout
    for name in listed.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    run(folder, "git", "init", "--quiet")
    return folder


def test_the_root_sees_only_its_own_pipeline(clone: Path) -> None:
    shown = json.loads(run(clone, "dvc", "metrics", "show", "--json").stdout)
    assert len(shown[""]["data"]) == 4
    assert not any("pipelines" in path for path in shown[""]["data"])
    assert "pipelines" not in run(clone, "dvc", "status", "--json").stdout
    plots = json.loads(run(clone, "dvc", "plots", "show", "--json").stdout)
    assert "pipelines" not in json.dumps(plots)
    assert "pipelines" not in run(clone, "dvc", "stage", "list", "--recursive").stdout


def test_a_pipeline_is_a_separate_project_with_the_cache_of_the_root(clone: Path) -> None:
    texts = {(folder / ".dvc/config").read_text(encoding="utf-8") for folder in FOLDERS}
    assert len(texts) == 1
    folder = clone / "pipelines/clean-changes"
    assert run(folder, "dvc", "root").stdout.strip() == "."
    assert Path(run(folder, "dvc", "cache", "dir").stdout.strip()) == clone / ".dvc/cache"
    assert "rte" in run(folder, "dvc", "status", "teacher@rte").stdout
    assert "cola" in run(folder, "dvc", "stage", "list").stdout
    untracked = run(clone, "git", "status", "--short", "--untracked-files=all", "--", "pipelines").stdout
    assert ".dvc/tmp" not in untracked
    page = (folder / ".dvc" / "../../../.dvc/plots/page.html").resolve()
    assert page.is_file()
    assert "../../../.dvc/plots/page.html" in texts.pop()


def test_a_smoke_run_is_marked(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    shutil.copy(REPOSITORY / "pipelines/table-2-glue/dvc.yaml", tmp_path)
    shutil.copytree(tiny_task, tmp_path / "tasks")
    params = yaml.safe_load((REPOSITORY / "pipelines/table-2-glue/params.yaml").read_text(encoding="utf-8"))
    none: dict[str, object] = {"teacher": {}, "student": {}, "quantization": {}, "distillation": {}}
    params |= {"recipe": "smoke", "encoder": str(tiny_encoder), "seeds": [1], "tasks": ["tiny"]}
    params["settings"] = {"tiny": none}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    run(tmp_path, "kdqat", "repro")
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len(lines) == 1 + len(params["axes"]["runs"])
    assert all("smoke run, not to be quoted" in line for line in lines)


@pytest.mark.slow
def test_table_2_passes_in_minutes_on_a_tiny_encoder(tmp_path: Path, tiny_encoder: Path) -> None:
    """As in docs/pipelines.md: every task of GLUE, every loss, one seed; no result may be quoted."""
    for name in yaml.safe_load((REPOSITORY / "pipelines/table-2-glue/params.yaml").read_text(encoding="utf-8"))[
        "tasks"
    ]:
        write_glue(tmp_path / "data", load_text_task(name))
    project = tmp_path / "project"
    project.mkdir()
    options = ("--recipe", "smoke", "--encoder", str(tiny_encoder), "--seeds", "1")
    run(project, "kdqat", "init", "--pipeline", "table-2-glue", *options)
    run(project, "kdqat", "repro", "--jobs", "2", KDQAT_DATA_DIR=str(tmp_path / "data"))
    groups = json.loads(run(project, "kdqat", "report", "--json").stdout)
    assert len(groups) == 8 * (1 + 4)
    assert all(group["not_to_be_quoted"] and not group["missing"] for group in groups)
    lines = (project / "report.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len(lines) == len(groups)
    assert all("smoke run, not to be quoted" in line for line in lines)


def write_glue(folder: Path, task: TextTask) -> None:
    """Writes the files of a task in the published layout, with 80 rows per split."""
    names = task.header or task.columns.used()
    draw = random.Random(0)
    for file in set(task.files.values()):
        lines = [] if task.header else ["\t".join(names)]
        for number in range(80):
            label = task.labels[number % len(task.labels)] if task.labels else str(number % 6)
            cells = {name: " ".join(draw.choices(NEUTRAL, k=6)) for name in names} | {task.columns.label: label}
            lines.append("\t".join(cells[name] for name in names))
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_pipeline_runs(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    shutil.copy(REPOSITORY / "pipelines/clean-changes/dvc.yaml", tmp_path)
    shutil.copytree(tiny_task, tmp_path / "tasks")
    (tmp_path / "params.yaml").write_text(PARAMS.format(encoder=tiny_encoder), encoding="utf-8")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    run(tmp_path, "kdqat", "repro", "--jobs", "2")
    assert run(tmp_path, "dvc", "repro").stdout.endswith("Data and pipelines are up to date.\n")
    groups = json.loads(run(tmp_path, "kdqat", "report", "--json").stdout)
    assert [group["run"] for group in groups] == [None, "as-it-is", "no-clip"]
    for group in groups:
        assert not group["missing"]
    assert [seed["seed"] for seed in groups[1]["seeds"]] == [1, 2]
    assert "as-it-is" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_pipeline_of_polino_et_al_runs(tmp_path: Path) -> None:
    """All of its stages, and the published numbers beside ours: known, not known, and not in the table."""
    shutil.copy(REPOSITORY / "pipelines/polino-digits/dvc.yaml", tmp_path)
    params = yaml.safe_load((REPOSITORY / "pipelines/polino-digits/params.yaml").read_text(encoding="utf-8"))
    axes = params["axes"]
    for key in ("after", "learned", "points"):
        axes[key] = axes[key][:1]
    axes["quantised"] = [axes[key][0]["name"] for key in ("after", "learned", "points")]
    params["seeds"] = [1]
    params["settings"]["digits"] |= {"teacher": {"epochs": 3}, "student": {"epochs": 2}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    run(tmp_path, "kdqat", "repro", "--jobs", "2")
    groups = json.loads(run(tmp_path, "kdqat", "report", "--json").stdout)
    assert [(group["model"], group["run"]) for group in groups] == [
        ("teacher", None),
        ("teacher", "small-plain"),
        ("student", "small-full"),
        ("packed", "small-dq-2"),
        ("packed", "small-pm-2"),
        ("packed", "small-qd-2"),
    ]
    assert not any(group["missing"] for group in groups)
    full, *packed = (group["metrics"]["bytes"] for group in groups[2:])
    assert max(packed) < full  # a header of 5,000 bytes is most of such a small network
