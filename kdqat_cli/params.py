"""Reads recipes and params.yaml, and merges them into the settings of a run.

Three layers are merged, and later layers override earlier ones: the recipe (a packaged YAML file or a file of the
user), the section of the task under `settings` in params.yaml, and the options of the command line.
"""

from collections.abc import Mapping
from pathlib import Path

from kdqat_cli.config import OPTIONS, Params, Recipe, Settings, parse
from kdqat_cli.errors import ConfigError
from kdqat_cli.files import is_there
from kdqat_cli.plugins import load_plugins
from kdqat_cli.yaml12 import parse_yaml, read_text, read_yaml

PARAMS_FILE = Path("params.yaml")
_PACKAGED = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the packaged recipes."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def read_recipe(name: str) -> str:
    """The text of a packaged recipe by name, or of a recipe file by path.

    Raises:
        ConfigError: the name is unknown.
        MissingInputError: there is no such file.
    """
    return read_text(_recipe_path(name))


def load_recipe(name: str) -> Recipe:
    """A packaged recipe by name, or a recipe file by path.

    Raises:
        ConfigError: the name is unknown, or the file has errors.
        MissingInputError: there is no such file.
    """
    recipe = parse(Recipe, read_yaml(_recipe_path(name)), f"recipe {name}")
    for group in ("kinds", "tasks"):
        for key, changes in getattr(recipe, group).items():
            parse(Settings, _merge(_sections(recipe), changes), f"recipe {name}: {group}.{key}")
    return recipe


def _recipe_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in recipe_names():
        raise ConfigError(
            f"There is no recipe {name!r}; packaged are {', '.join(recipe_names())}, and a path must end in .yaml.",
            f"kdqat recipe {recipe_names()[0]} > mine.yaml",
        )
    return _PACKAGED / f"{name}.yaml"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads params.yaml of the working folder, or gives the defaults if it is missing. Loads its plugins.

    Raises:
        ConfigError: the file has errors (the message has all of them), or a plugin fails.
        MissingInputError: the file exists but cannot be read, or a plugin is missing.
    """
    use_plugins(path)  # first, because plugins add names that other keys use
    return parse(Params, read_yaml(path) or {}, str(path)) if is_there(path) else Params()


def use_plugins(path: Path = PARAMS_FILE) -> None:
    """Loads the plugins that params.yaml names, if it exists; its other keys are not checked.

    Raises:
        ConfigError: a plugin fails.
        MissingInputError: params.yaml cannot be read, or a plugin is missing.
    """
    value = read_yaml(path) if is_there(path) else None
    plugins = value.get("plugins") if isinstance(value, dict) else None
    if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins):
        load_plugins(plugins, path.parent, str(path))


def refuse_other_version(version: str, path: Path = PARAMS_FILE) -> None:
    """Refuses a project of another version of kdqat, because the report would mix the results of both.

    Other keys are not checked: `kdqat repro` also runs DVC projects whose params.yaml is not kdqat's.

    Args:
        version: version of this kdqat.
        path: params.yaml.

    Raises:
        ConfigError: params.yaml names another version.
        MissingInputError: params.yaml cannot be read.
    """
    value = read_yaml(path) if is_there(path) else None
    named = value.get("kdqat_version") if isinstance(value, dict) else None
    if named not in (None, version):
        raise ConfigError(
            f"{path}: kdqat_version is {named}, but this is kdqat {version}.",
            f'pip install kdqat=={named}; or kdqat_version: "{version}" in {path}, and then dvc repro --force, which '
            "makes all results anew",
        )


def resolve(
    task: str,
    params: Params,
    recipe: str | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
    assignments: list[str] | None = None,
    kind: str = "text",
) -> Settings:
    """The settings of one task: recipe, then params.yaml, then the command line's options.

    Args:
        task: the task's name.
        params: params.yaml.
        recipe: a recipe that replaces the one of params.yaml.
        options: changes as nested dictionaries, e.g. {"student": {"epochs": 1.0}}; None values are ignored.
        assignments: changes as text, e.g. "student.epochs=1"; they are applied last, and a value may be null.
        kind: the kind of the task.

    Raises:
        ConfigError: the recipe is unknown, or a setting has a wrong type or range.
    """
    base = load_recipe(recipe or params.recipe)
    merged = _merge(_merge(_sections(base), base.kinds.get(kind, {})), base.tasks.get(task, {}))
    merged = _merge(merged, params.settings.get(task, {}))
    where = f"{PARAMS_FILE}: settings.{task}"
    parse(Settings, merged, where)
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in (options or {}).items()
    }
    merged = parse(Settings, _merge(merged, given), OPTIONS).model_dump()
    for assignment in assignments or []:
        merged = _merge(merged, _assigned(assignment))
    return parse(Settings, merged, "--set")


def _sections(recipe: Recipe) -> dict[str, object]:
    return recipe.model_dump(exclude={"kinds", "tasks"})


def _assigned(assignment: str) -> dict[str, object]:
    place, equals, value = assignment.partition("=")
    section, dot, name = place.partition(".")
    if not (equals and dot):
        fix = "--set quantization.activation_scale=token"
        raise ConfigError(f"--set takes SECTION.FIELD=VALUE, not {assignment!r}.", fix)
    return {section: {name: parse_yaml(value, f"--set {place}")}}


def _merge(base: dict[str, object], changes: object) -> dict[str, object]:
    if not isinstance(changes, dict):
        return base
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
