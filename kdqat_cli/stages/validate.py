"""validate: reports all errors of the configuration at once."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kdqat_cli import __version__
from kdqat_cli.config import Params, Recipe, Settings
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.parallel.dependencies import mend, stale_stages
from kdqat_cli.params import PARAMS_FILE, load_params, load_recipe, refuse_other_version, resolve
from kdqat_cli.store.places import PIPELINE
from kdqat_cli.tasks.registry import load_task, task_names, user_task_names
from kdqat_cli.tasks.task import check_keep_best

Read = TypeVar("Read")

_FIX = "kdqat validate --fix"


def validate(recipes: list[str], fix: bool = False) -> dict[str, object]:
    """Checks params.yaml, dvc.yaml, the recipes, the packaged tasks and those in tasks/.

    Args:
        recipes: recipes to check, besides the one that params.yaml names.
        fix: write missing modules into the dependencies of the stages in dvc.yaml.

    Returns:
        The files, recipes and tasks that were checked.

    Raises:
        ConfigError: there are errors; the message has all of them.
        MissingInputError: the working folder has nothing to check.
    """
    own = user_task_names()
    if not (recipes or own or PARAMS_FILE.exists() or PIPELINE.exists()):
        raise MissingInputError(
            f"This folder has no {PARAMS_FILE}, no {PIPELINE} and no tasks/: there is nothing to check.",
            "cd into the folder of the project, or kdqat validate --recipe FILE",
        )
    faults: list[str] = []
    params = _checked(load_params, faults)
    named = list(dict.fromkeys([*recipes, *([params.recipe] if params else [])]))
    read = {name: _checked(partial(load_recipe, name), faults) for name in named}
    tasks = list(dict.fromkeys([*task_names(), *own, *(params.tasks if params else [])]))
    loaded = [_checked(partial(load_task, task), faults) for task in tasks]
    known = {*tasks, *(task.name for task in loaded if task is not None)}
    faults += _unknown_tasks(params, read, known)
    if params:
        _checked(partial(refuse_other_version, __version__), faults)
    if params and not faults:
        faults += _unsound_settings(params)
    stale = _check_pipeline(faults, fix)
    if faults:
        raise ConfigError("\n".join(faults), _FIX if stale else None)
    there = {str(path): "checked" if path.exists() else "not there" for path in (PARAMS_FILE, PIPELINE)}
    return there | {"recipes": named, "tasks": tasks, "errors": 0}


def _unknown_tasks(params: Params | None, recipes: dict[str, Recipe | None], known: set[str]) -> list[str]:
    """Settings of tasks that do not exist."""
    sources = {f"recipe {name}: tasks": list(recipe.tasks) for name, recipe in recipes.items() if recipe}
    if params:
        sources[f"{PARAMS_FILE}: settings"] = list(params.settings)
    faults = []
    for where, names in sources.items():
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {close[0]}?" if close else "`kdqat ls tasks` lists those there are."
                faults.append(f"{where}.{name}: there is no such task; {meant}")
    return faults


def _unsound_settings(params: Params) -> list[str]:
    faults: list[str] = []
    for task in dict.fromkeys([*params.tasks, *params.settings]):
        settings = _checked(partial(resolve, task, params, kind=load_task(task).kind), faults)
        for section in ("teacher", "student") if settings else ():
            _checked(partial(check_keep_best, load_task(task), section, getattr(settings, section)), faults)
    for task in params.tasks:
        lacking = [
            name
            for name, field in Settings.model_fields.items()
            if field.is_required() and name not in params.settings.get(task, {})
        ]
        if lacking:  # DVC fails if a parameter of a stage is missing
            faults.append(f"{PARAMS_FILE}: settings.{task} lacks {', '.join(lacking)}; an empty one is written {{}}.")
    return faults


def _check_pipeline(faults: list[str], fix: bool) -> bool:
    """Adds the errors of dvc.yaml to the faults; returns whether `--fix` would repair some of them."""
    if not PIPELINE.exists():
        return False
    # Imported here, because DVC takes seconds to import, and a folder without a pipeline does not need it.
    from kdqat_cli.parallel.index import read_index

    stale = _checked(partial(stale_stages, PIPELINE), faults)
    # DVC reads the file second, because it does not report the line of a YAML error.
    if stale is None or _checked(partial(read_index, PIPELINE), faults) is None:
        return False
    if stale and fix:
        text = _checked(partial(mend, PIPELINE, stale), faults)
        if text is not None:
            aside = PIPELINE.with_name(f".{PIPELINE.name}.aside")
            aside.write_text(text, encoding="utf-8")
            aside.replace(PIPELINE)
            return False
    faults += [entry.sentence(PIPELINE) for entry in stale]
    return bool(stale)


def _checked(read: Callable[[], Read], faults: list[str]) -> Read | None:
    try:
        return read()
    except KdqatError as error:
        faults.append(error.sentence)
        return None
