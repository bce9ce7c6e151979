"""sweep: trains one student for each combination of values and seed, and writes the best values as a recipe.

Trainings that are unlikely to be the best are stopped early (parallel/median.py). A sweep writes a DVC pipeline of its
own and runs it like `kdqat repro`:

    sweeps/NAME/dvc.yaml, params.yaml    the trainings; they use the teachers under runs/
    sweeps/NAME/runs/TASK/student/…      their results
    sweeps/NAME/stopped.json             the trainings that were stopped early, and why; they are not started again
    sweeps/NAME/best.yaml                a recipe with the best values of each task

The trainings run in the folder of the project, with its tasks and its params.yaml.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from shlex import quote
from statistics import fmean, stdev

import yaml

from kdqat_cli.config import Params, Settings
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.output import Board
from kdqat_cli.parallel.judge import SweepJudge, SweepRun, is_stopped
from kdqat_cli.parallel.scheduler import StageState
from kdqat_cli.params import PARAMS_FILE, load_recipe, resolve
from kdqat_cli.stages.repro import repro
from kdqat_cli.store.digest import digest_of
from kdqat_cli.store.figures import read_run
from kdqat_cli.store.folder import HISTORY, MODEL, RUN, model_record, refuse_inside
from kdqat_cli.store.places import PIPELINE, teacher_folder
from kdqat_cli.store.writing import refuse_target, write_text
from kdqat_cli.tasks.registry import load_task
from kdqat_cli.yaml12 import parse_yaml, read_yaml

SWEEPS = Path("sweeps")
_SECTIONS = ("student", "quantization", "distillation")  # not teacher: a sweep trains no teachers
_BEST = "best.yaml"
_STOPPED = "stopped.json"
_ABOUT = "# Written by `kdqat sweep"
_PLAIN = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Sweep:
    """The options of a sweep.

    Attributes:
        name: name of its folder.
        axes: SECTION.FIELD → its values, as text.
        seeds: seeds; each combination is trained with each of them.
        tasks: names of the tasks.
        recipe: the recipe for all other fields.
        params: the content of params.yaml.
        teacher: folder or hub id of the teacher; None: each task's under runs/.
    """

    name: str
    axes: dict[str, list[str]]
    seeds: list[int]
    tasks: list[str]
    recipe: str
    params: Params
    teacher: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        return SWEEPS / self.name

    @property
    def short(self) -> dict[str, str]:
        """SECTION.FIELD → a short name, which contains the section only if two fields have the same name."""
        last = [place.rpartition(".")[2] for place in self.axes]
        return {
            place: name if last.count(name) == 1 else place.replace(".", "_")
            for place, name in zip(self.axes, last, strict=True)
        }

    def assignments(self, values: Sequence[str]) -> list[str]:
        """One combination, in the form of the option `--set`."""
        return [f"{place}={value}" for place, value in zip(self.axes, values, strict=True)]

    def runs(self) -> list[SweepRun]:
        """All trainings.

        Raises:
            ConfigError: a field or a value is not valid.
        """
        runs = []
        for task, values, seed in product(self.tasks, product(*self.axes.values()), self.seeds):
            kind = load_task(task).kind
            settings = resolve(task, self.params, self.recipe, None, self.assignments(values), kind)
            stage = f"{self.folder / PIPELINE}:student@{'-'.join([task, *values, str(seed)])}"
            point = "-".join(f"{name}{value}" for name, value in zip(self.short.values(), values, strict=True))
            folder = self.folder / "runs" / task / "student" / f"{point}-{seed}"
            runs.append(
                SweepRun(task, values, seed, stage, folder, digest_of(settings.model_dump(exclude={"teacher"})))
            )
        return runs


@dataclass
class Outcome:
    """The result of a sweep.

    Attributes:
        rows: one row per task and combination.
        states: states of the stages.
        best: the recipe file; None: no training was finished.
        remarks: sentences for the user.
    """

    rows: list[dict[str, object]]
    states: list[StageState]
    best: Path | None
    remarks: list[str] = field(default_factory=list)


def plan_sweep(
    name: str,
    over: list[str],
    seeds: str,
    tasks: list[str],
    recipe: str | None,
    params: Params,
    teacher: str | None = None,
) -> Sweep:
    """Reads and checks the options of a sweep.

    Args:
        name: name of the folder under sweeps/.
        over: one "SECTION.FIELD=VALUE,VALUE" per field.
        seeds: numbers with commas between them.
        tasks: names of tasks; empty: those of params.yaml.
        recipe: name or path of a recipe; None: that of params.yaml.
        params: the content of params.yaml.
        teacher: folder or hub id of the only task's teacher; None: each task's under runs/.

    Raises:
        ConfigError: an option has the wrong form, a value is not valid, or the folder is an input or has files that a
            sweep did not write.
        MissingInputError: a task has no teacher, or the folder cannot be written.
    """
    if not _PLAIN.fullmatch(name) or not name.strip("."):
        raise ConfigError(f"{name!r} cannot be the name of a folder.", "kdqat sweep beta")
    axes = _axes(over)
    if not all(seed.isdigit() for seed in seeds.split(",")):
        raise ConfigError(f"--seeds takes numbers with commas between them, not {seeds!r}.", "--seeds 1,2,3")
    chosen = tasks or params.tasks
    if not chosen:
        raise ConfigError(f"{PARAMS_FILE} names no tasks.", f"kdqat sweep {name} --task TASK")
    _check_teachers(chosen, teacher)
    numbers = [int(seed) for seed in seeds.split(",")]
    sweep = Sweep(name, axes, numbers, chosen, recipe or params.recipe, params, teacher)
    sweep.runs()  # raises an error for wrong values before anything is written
    _refuse_folder(sweep)
    return sweep


def _check_teachers(tasks: list[str], teacher: str | None) -> None:
    """Refuses a task that is given by path, and a task without a teacher."""
    if teacher is not None:
        refuse_absent(teacher, None)
        if len(tasks) > 1:
            raise ConfigError("--teacher is the teacher of one task, but the sweep has several.", "--task TASK")
    for task in tasks:
        if load_task(task).name != task:
            raise ConfigError(f"A sweep takes tasks by name, not {task}: put its file into tasks/.")
        if teacher is None and not (teacher_folder(task) / MODEL).is_dir():
            fix = f"kdqat finetune-teacher --task {task}, or --teacher"
            raise MissingInputError(f"There is no teacher of {task} in {teacher_folder(task)}.", fix)


def _axes(over: list[str]) -> dict[str, list[str]]:
    """SECTION.FIELD → its values, from the options `--over`."""
    axes: dict[str, list[str]] = {}
    for text in over:
        place, _, values = text.partition("=")
        axes[place] = values.split(",")
        if place.partition(".")[0] not in _SECTIONS or not all(_PLAIN.fullmatch(value) for value in axes[place]):
            raise ConfigError(
                f"--over takes SECTION.FIELD=VALUE,VALUE with a section of {', '.join(_SECTIONS)} and values that are "
                f"single words or numbers, not {text!r}.",
                "--over distillation.beta=0.1,0.3",
            )
    return axes


def sweep(plan: Sweep, jobs: int | None, ray: str | None, stop: bool, board: Board) -> Outcome:
    """Runs the trainings of a sweep, and finds the best values.

    Args:
        plan: the options of the sweep.
        jobs: largest number of trainings that run at once; None: the number of GPUs, or one without GPUs.
        ray: address of a Ray cluster; None: this machine.
        stop: whether to stop trainings early that are unlikely to be the best; trainings that an earlier run stopped
            are then not started again.
        board: called with the states of the stages, to show them.
    """
    runs = plan.runs()
    _write_pipeline(plan)
    judge = SweepJudge(plan.folder / _STOPPED, runs, stop)
    left = [run for run in runs if run.stage not in judge.stopped]
    states = repro([run.stage for run in left], jobs, ray, board, judge) if left else []
    finished = {state.name for state in states if state.state in ("done", "restored", "unchanged")}
    scores = {run.stage: _score(run) for run in left if run.stage in finished}
    return _outcome(plan, runs, states, scores, set(judge.stopped) - finished)


def _refuse_folder(plan: Sweep) -> None:
    """Refuses a folder that is an input, or in which the sweep would replace files that no sweep wrote."""
    for name in (PIPELINE, PARAMS_FILE, _BEST):
        refuse_target(plan.folder / name, _is_ours)
    refuse_target(plan.folder / _STOPPED, is_stopped)
    refuse_inside(plan.folder, {f"teacher of {task}": plan.teacher or str(teacher_folder(task)) for task in plan.tasks})
    best = plan.folder / _BEST
    if best.exists() and Path(plan.recipe).exists() and best.samefile(plan.recipe):
        raise ConfigError(
            f"The sweep {plan.name} would replace its own recipe {best}.", "kdqat sweep with another name"
        )


def _is_ours(text: str) -> bool:
    return text.startswith(_ABOUT)


def _write_pipeline(plan: Sweep) -> None:
    short = plan.short
    point = "-".join(f"{name}${{item.{name}}}" for name in short.values())
    out = f"{plan.folder}/runs/${{item.task}}/student/{point}-${{item.seed}}"
    varied = " ".join(f"--set {place}=${{item.{name}}}" for place, name in short.items())
    recipe = [plan.recipe] if plan.recipe.endswith((".yaml", ".yml")) else []
    teacher = plan.teacher or "runs/${item.task}/teacher"
    inner = f"{teacher}/{MODEL}"
    known = [inner] if plan.teacher is None or Path(inner).is_dir() else [teacher] * Path(teacher).is_dir()
    varied += f" --teacher {quote(teacher)}" if plan.teacher else ""
    given = (read_yaml(PARAMS_FILE) or {}) if PARAMS_FILE.exists() else {}
    # Only sections that params.yaml has, because DVC fails if a parameter of a stage is missing.
    sections = [
        f"settings.${{item.task}}.{section}"
        for section in _SECTIONS
        if all(section in plan.params.settings.get(task, {}) for task in plan.tasks)
    ]
    stage = {
        "matrix": {"task": "${tasks}"} | {name: f"${{axes.{name}}}" for name in short.values()} | {"seed": "${seeds}"},
        "wdir": "../..",
        "cmd": f"kdqat distill --task ${{item.task}} --recipe {plan.recipe} {varied} --seed ${{item.seed}} --out {out}",
        "deps": [*known, *recipe],
        "params": [name for name in ("data_dir",) if name in given] + sections,
        "outs": [f"{out}/{MODEL}", f"{out}/{RUN}"],
        "plots": [{f"{out}/{HISTORY}": {"x": "step", "y": "loss"}}],
    }
    axes = {name: plan.axes[place] for place, name in short.items()}
    params = {"tasks": plan.tasks, "axes": axes, "seeds": plan.seeds}
    about = f"{_ABOUT} {plan.name}`; `kdqat repro {plan.folder / PIPELINE}` runs all of it.\n"
    text = yaml.safe_dump({"stages": {"student": stage}}, sort_keys=False, width=1000)
    write_text(plan.folder / PIPELINE, about + text, _is_ours)
    # Written as JSON, which is YAML with all strings in quotes: DVC must not change "2e-5" to 2e-05.
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in params.items())
    write_text(plan.folder / PARAMS_FILE, about + text, _is_ours)


def _score(run: SweepRun) -> float:
    score = read_run(run.folder / RUN).score
    if score is None:
        raise MissingInputError(f"{run.folder / RUN} has no score.", f"rm -r {run.folder}, and the same command again")
    return score


def _outcome(
    plan: Sweep, runs: list[SweepRun], states: list[StageState], scores: dict[str, float], stopped: set[str]
) -> Outcome:
    rows: list[dict[str, object]] = []
    winners: dict[str, tuple[str, ...]] = {}
    for task in plan.tasks:
        points: dict[tuple[str, ...], list[SweepRun]] = {}
        for run in runs:
            if run.task == task:
                points.setdefault(run.values, []).append(run)
        # A combination with more finished seeds wins; among equals, the one with the higher mean.
        rank = {
            values: (len(found), fmean(found))
            for values, members in points.items()
            if (found := [scores[run.stage] for run in members if run.stage in scores])
        }
        if rank:
            winners[task] = max(rank, key=lambda values: rank[values])
        for values, members in points.items():
            found = [scores[run.stage] for run in members if run.stage in scores]
            seeds = {run.seed: _seed_text(run, scores, stopped) for run in members}
            row: dict[str, object] = {"task": task, **dict(zip(plan.short.values(), values, strict=True))}
            row |= {"score": fmean(found) if found else None, "std": stdev(found) if len(found) > 1 else None}
            rows.append(row | {"seeds": seeds, "best": winners.get(task) == values})
    best = _write_best(plan, winners) if winners else None
    remarks = [
        f"{PARAMS_FILE} has settings.{task}.{place}, which overrides that of a recipe: remove it to use {best}."
        for task in winners
        for place in plan.axes
        if _overridden(plan.params, task, place)
    ]
    marks = {model_record(run.folder / MODEL).not_to_be_quoted for run in runs if run.stage in scores}
    remarks += [f"Scores are not to be quoted: {mark}." for mark in sorted(filter(None, marks))]
    return Outcome(rows, states, best, remarks)


def _overridden(params: Params, task: str, place: str) -> bool:
    """Whether params.yaml sets a field of a task; such a value overrides that of any recipe."""
    section, _, name = place.partition(".")
    fields = params.settings.get(task, {}).get(section)
    return isinstance(fields, dict) and name in fields


def _seed_text(run: SweepRun, scores: dict[str, float], stopped: set[str]) -> str:
    if run.stage in scores:
        return f"{scores[run.stage]:.2f}"
    return "stopped" if run.stage in stopped else "missing"


def _write_best(plan: Sweep, winners: dict[str, tuple[str, ...]]) -> Path:
    recipe = load_recipe(plan.recipe).model_dump()
    for task, values in winners.items():
        sections: dict[str, dict[str, object]] = {
            name: dict(recipe["tasks"].get(task, {}).get(name, {})) for name in Settings.model_fields
        }
        for place, value in zip(plan.axes, values, strict=True):
            section, _, name = place.partition(".")
            sections[section][name] = parse_yaml(value, place)
        recipe["tasks"][task] = {name: changes for name, changes in sections.items() if changes}
    path = plan.folder / _BEST
    about = f"{_ABOUT} {plan.name}`: recipe {plan.recipe} with the best values of each task.\n"
    write_text(path, about + yaml.safe_dump(recipe, sort_keys=False), _is_ours)
    load_recipe(str(path))
    return path
