"""validate: every error of the configuration at once."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kdqat_cli.config import PARAMS_FILE, Settings, load_params, load_recipe, resolve
from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.tasks.registry import check_keep_best, load_task, task_names, user_task_names

Read = TypeVar("Read")


def validate(recipes: list[str]) -> dict[str, Any]:
    """Checks params.yaml, the recipes, the packaged tasks and those in tasks/.

    Args:
        recipes: recipes to check besides the one that params.yaml names.

    Returns:
        What was checked.

    Raises:
        ConfigError: with every error found.
    """
    faults: list[str] = []
    params = _checked(load_params, faults)
    named = list(dict.fromkeys([*recipes, *([params.recipe] if params else [])]))
    for recipe in named:
        _checked(partial(load_recipe, recipe), faults)
    wanted = params.tasks if params else []
    known = list(dict.fromkeys([*task_names(), *user_task_names(), *wanted]))
    for task in known:
        _checked(partial(load_task, task), faults)
    if params and not faults:
        for task in wanted:
            settings = _checked(partial(resolve, task, params), faults)
            if settings:
                for section in ("teacher", "student"):
                    _checked(partial(check_keep_best, load_task(task), section, getattr(settings, section)), faults)
            lacking = [name for name in Settings.model_fields if name not in params.settings.get(task, {})]
            if lacking:  # DVC stops at a parameter that is not there
                faults.append(
                    f"{PARAMS_FILE}: settings.{task} lacks {', '.join(lacking)}; an empty one is written {{}}."
                )
    if faults:
        raise ConfigError("\n".join(faults))
    return {"recipes": named, "tasks": known, "errors": 0}


def _checked(read: Callable[[], Read], faults: list[str]) -> Read | None:
    try:
        return read()
    except KdqatError as error:
        faults.append(error.sentence)
        return None
