"""`kdqat sweep`: its files, the runs that it stops, and its best values; a few lines of code stand in for trainings."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdqat_cli.parallel.median import hopeless
from tests.commands import environment, run
from tests.parallel.projects import start, wait_for

# Replaces only `kdqat distill`: four evaluations, whose scores rise with beta and a little with the seed.
STAND_IN = f"""\
#!{sys.executable}
import json, os, pathlib, sys, time
if sys.argv[1] != "distill":
    from kdqat_cli.cli import main
    sys.exit(main())
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
values = dict(text.split("=") for name, text in zip(sys.argv, sys.argv[1:]) if name == "--set")
beta, seed = float(values["distillation.beta"]), int(options["--seed"])
out = pathlib.Path(options["--out"])
with open("started", "a") as file:
    print(options["--out"], file=file)
(out / "model").mkdir(parents=True, exist_ok=True)
rows = []
for step in (1, 2, 3, 4):
    rows.append((step, 50 + 10 * beta + seed / 10 + step))
    if "KDQAT_PROGRESS" in os.environ:
        with open(os.environ["KDQAT_PROGRESS"], "a") as file:
            print(json.dumps({{"version": 1, "step": step, "steps": 4, "score": rows[-1][1]}}), file=file)
    end = time.monotonic() + (30 if beta < 0.4 and os.path.exists("slow") else 0.0)
    while time.monotonic() < end:  # a bad training waits for its decision
        time.sleep(0.05)
(out / "model" / "weights").write_text(str(rows))
(out / "model" / "kdqat.json").write_text(json.dumps({{"version": 1, "kind": "teacher"}}))  # a student's is longer
(out / "history.csv").write_text("step,score\\n" + "".join(f"{{step}},{{score}}\\n" for step, score in rows))
(out / "run.json").write_text(json.dumps({{"score": rows[-1][1], "seconds": 1.0}}))
"""

PARAMS = "tasks: [rte]\nsettings: {rte: {teacher: {}, student: {}, quantization: {}, distillation: {}}}\n"


@pytest.fixture
def path(project: Path, tmp_path: Path) -> str:
    """PATH for a project with a teacher for the packaged task rte, in which `kdqat distill` is the stand-in."""
    (project / "dvc.yaml").unlink()
    (project / "params.yaml").write_text(PARAMS, encoding="utf-8")
    teacher = project / "runs/rte/teacher/model"
    teacher.mkdir(parents=True)
    (teacher / "weights").touch()
    program = tmp_path / "bin/kdqat"
    program.parent.mkdir()
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{environment()['PATH']}"


def sweep(folder: Path, path: str, *options: str) -> list[dict[str, Any]]:
    done = run(folder, "kdqat", "sweep", "betas", "--json", *options, PATH=path)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def started(folder: Path) -> int:
    return len((folder / "started").read_text(encoding="utf-8").splitlines())


def test_the_best_values_are_a_recipe_and_dvc_finds_nothing_to_do(project: Path, path: str) -> None:
    options = ["--over", "distillation.beta=0.1,0.5,0.9", "--over", "student.learning_rate=2e-5", "--seeds", "1,2"]
    rows = sweep(project, path, *options, "--no-stop", "--jobs", "2")
    assert [row["beta"] for row in rows] == ["0.1", "0.5", "0.9"]
    assert [row["best"] for row in rows] == [False, False, True]
    assert rows[2]["score"] == pytest.approx(63.15)
    assert rows[2]["std"] == pytest.approx(0.0707, abs=1e-3)
    assert rows[2]["seeds"] == {"1": "63.10", "2": "63.20"}
    done = run(project, "dvc", "repro", "sweeps/betas/dvc.yaml", PATH=path)
    assert done.stdout.endswith("Data and pipelines are up to date.\n")
    assert started(project) == 6

    run(project, "kdqat", "validate", "--recipe", "sweeps/betas/best.yaml")
    recipe = yaml.safe_load((project / "sweeps/betas/best.yaml").read_text(encoding="utf-8"))
    assert recipe["tasks"] == {"rte": {"student": {"learning_rate": 2e-5}, "distillation": {"beta": 0.9}}}

    more = ["--over", "distillation.beta=0.1,0.5,0.9,1.5", *options[2:]]
    assert [row["best"] for row in sweep(project, path, *more)] == [False, False, False, True]
    assert started(project) == 8  # only those of the new value


def test_bad_runs_are_stopped_shown_as_stopped_and_not_started_again(project: Path, path: str) -> None:
    (project / "slow").touch()
    options = ["--over", "distillation.beta=0.6,0.7,0.8,0.9,0.1", "--jobs", "1"]
    rows = sweep(project, path, *options)
    assert [next(iter(row["seeds"].values())) for row in rows] == ["64.20", "65.20", "66.20", "67.20", "stopped"]
    assert rows[4]["score"] is None
    assert not (project / "sweeps/betas/runs/rte/student/beta0.1-42/run.json").exists()
    why = json.loads((project / "sweeps/betas/stopped.json").read_text(encoding="utf-8"))
    assert "the median of 4 runs" in why["sweeps/betas/dvc.yaml:student@rte-0.1-42"]["why"]
    assert started(project) == 5
    assert sweep(project, path, *options) == rows
    assert started(project) == 5

    (project / "slow").unlink()
    assert sweep(project, path, *options, "--no-stop")[4]["seeds"] == {"42": "59.20"}
    assert started(project) == 6


def test_an_interrupted_sweep_continues(project: Path, path: str) -> None:
    (project / "slow").touch()
    options = ["--over", "distillation.beta=0.9,0.1"]
    process = start(project, "sweep", "betas", *options, PATH=path)
    wait_for(project / "sweeps/betas/runs/rte/student/beta0.1-42/model")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    (project / "slow").unlink()
    assert [row["best"] for row in sweep(project, path, *options)] == [True, False]
    assert started(project) == 3


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--over", "distillation.beta=-1,0.5"], 2, "distillation.beta: input should be greater than 0"),
        (["--over", "distillation.bet=1"], 2, "did you mean beta?"),
        (["--over", "teacher.epochs=1"], 2, "SECTION.FIELD=VALUE"),
        (["--over", "distillation.hidden_layers=[1]"], 2, "single words or numbers"),
        (["--over", "distillation.beta=1", "--seeds", "a"], 2, "--seeds"),
        (["--over", "distillation.beta=1", "--task", "cola"], 3, "kdqat finetune-teacher --task cola"),
    ],
)
def test_wrong_options_are_reported_before_anything_is_written(
    project: Path, path: str, options: list[str], code: int, told: str
) -> None:
    assert told in run(project, "kdqat", "sweep", "betas", *options, code=code, PATH=path).stderr
    assert not (project / "sweeps").exists()


def curve(*scores: float) -> list[tuple[float, float]]:
    return [((number + 1) / 4, score) for number, score in enumerate(scores)]


def test_the_median_rule() -> None:
    others = [curve(10, 20), curve(20, 30), curve(30, 40), curve(40, 50)]
    assert hopeless(curve(24), others) == "dev score 24.00 after 25% of the steps, but the median of 4 runs is 25.00"
    assert hopeless(curve(25), others) is None
    assert hopeless(curve(24), others[1:]) is None  # too few to compare with
    assert hopeless(curve(1, 1, 1), others) is None  # no other run has come so far
    assert hopeless(curve(36, 0), others) is None  # its best score so far is compared
    assert hopeless([(0.2, 0.0)], others) is None  # too early
    assert hopeless([], others) is None
    late = [[(1.0, 50.0)]] * 4  # their first evaluation was their last
    assert hopeless(curve(1, 1), late) is None
