"""The files of a new project: made from the templates beside this module, and written completely or not at all.

    tasks/TASK.yaml          the files, columns and labels of a new task
    recipe.yaml              every setting of a training
    params.yaml, dvc.yaml    the stages and their settings
    .dvc/                    the files of `dvc init`, unless the folder is in a DVC project already

The stages depend on the key `kdqat_version` of params.yaml, not on kdqat's files, which are elsewhere.
"""

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from kdqat_cli import __version__
from kdqat_cli.errors import ConfigError
from kdqat_cli.params import PARAMS_FILE, read_recipe
from kdqat_cli.projects.guess import Found
from kdqat_cli.store.places import EMBEDDED, PIPELINE
from kdqat_cli.store.writing import write_text
from kdqat_cli.tasks.labels import SEPARATOR
from kdqat_cli.tasks.records import model_folder
from kdqat_cli.tasks.registry import USER_TASKS
from kdqat_cli.tasks.text.schema import TextTask

_RECIPE = Path("recipe.yaml")
_DVC = Path(".dvc")
_FETCH = """\
  fetch:
    cmd: kdqat fetch --needed
    params: [encoder, tasks]
    outs:
      - assets

"""
_BROUGHT = f"""\
# Written by `kdqat init --pipeline`. Another version of kdqat refuses to mix its results with the existing results
# until this line names it. The stages do not depend on it: `dvc repro --force` then makes all results again.
kdqat_version: "{__version__}"
"""


class Choice(NamedTuple):
    """The user's choices for a project; None: the default."""

    encoder: str | None = None
    """The encoder that the teacher starts from."""
    teacher: str | None = None
    """Folder or hub id of a model that is fine-tuned already."""
    recipe: str | None = None
    """Name of a packaged recipe, or path of a recipe file."""
    seeds: list[int] | None = None
    """Seeds of the students."""


def task_text(name: str, file: Path, found: Found, quoting: bool | None, skip_bad_rows: bool) -> str:
    """The text of a task file in tasks/.

    Args:
        name: name of the task.
        file: file of the rows, relative to the working folder or absolute.
        found: the facts about the file.
        quoting: whether double quotes enclose a cell; None: not given.
        skip_bad_rows: whether incomplete rows are left out.
    """
    columns = ", ".join(f"{key}: {_quoted(value)}" for key, value in found.columns if value is not None)
    metric = "accuracy" if found.labels else "pearson+spearman"
    return _filled(
        "task.yaml",
        TASK=name,
        TITLE=_quoted(f"Rows of {file.name}"),
        FILE=_quoted(file.as_posix() if file.is_absolute() else f"../{file.as_posix()}"),
        QUOTING="" if quoting is None else f"quoting: {json.dumps(quoting)}\n",
        COLUMNS=f"{{{columns}}}",
        ANSWERS=_answers(found),
        METRIC=metric if found.separator is None else "micro_f1\nalso: [macro_f1, accuracy]",
        LENGTH=str(found.max_length),
        SKIP="skip_bad_rows: true\n" if skip_bad_rows else "",
    )


def _answers(found: Found) -> str:
    """The lines of a task file about the labels."""
    if found.labels is None:
        return f"range: {found.range}  # smallest and largest label"
    labels = f"labels: {_quoted(found.labels)}"
    if found.separator is None:
        return labels
    several = f"{labels}\nmulti_label: true  # a row has any number of these labels, or none"
    return several + ("" if found.separator == SEPARATOR else f"\nseparator: {_quoted(found.separator)}")


def task_project(task: TextTask, choice: Choice) -> dict[Path, str]:
    """params.yaml, dvc.yaml and a recipe for one task.

    Args:
        task: a packaged task, or a task in tasks/.
        choice: the user's choices.

    Raises:
        ConfigError: there is no such recipe.
        MissingInputError: there is no such recipe file.
    """
    own_recipe = choice.recipe is not None and choice.recipe.endswith((".yaml", ".yml"))
    recipe = read_recipe(choice.recipe or "clean")  # raises an error if there is no such recipe or file
    text = _filled(
        "params.yaml",
        VERSION=__version__,
        ENCODER=_quoted(choice.encoder or EMBEDDED),
        TASK=task.name,
        SEEDS=str(choice.seeds or [42]),
        TEACHER=f"{{model: {_quoted(choice.teacher)}}}" if choice.teacher else "{}",
    )
    if own_recipe:
        text = text.replace(f"recipe: {_RECIPE}  ", f"recipe: {_quoted(choice.recipe)}")
    files = {PARAMS_FILE: text, PIPELINE: _pipeline(task, choice)}
    return files if own_recipe else {_RECIPE: recipe} | files


def brought_project(pipeline: str, choice: Choice) -> dict[Path, str]:
    """params.yaml and dvc.yaml of a packaged pipeline.

    Args:
        pipeline: name of the pipeline.
        choice: the user's choices, which replace values in params.yaml.

    Raises:
        ConfigError: there is no such pipeline, or it does not have a chosen setting.
    """
    if pipeline not in pipeline_names():
        raise ConfigError(
            f"There is no pipeline {pipeline!r}; the pipelines are {', '.join(pipeline_names())}.", "kdqat ls pipelines"
        )
    params, stages = (_read(f"pipelines/{pipeline}/{path}") for path in (PARAMS_FILE, PIPELINE))
    if choice.recipe:
        read_recipe(choice.recipe)
    chosen = {"encoder": choice.encoder, "recipe": choice.recipe, "seeds": choice.seeds}
    for key, value in chosen.items():
        if value is not None:
            params, count = re.subn(rf"(?m)^{key}: [^#\n]*?(?=  #|$)", f"{key}: {_quoted(value)}", params)
            if not count:
                raise ConfigError(f"The pipeline {pipeline} has no {key}.", f"no --{key}")
    return {PARAMS_FILE: _BROUGHT + params, PIPELINE: stages}


def pipeline_names() -> list[str]:
    """The names of the packaged pipelines."""
    folder = resources.files("kdqat_cli") / "projects" / "pipelines"
    return sorted(entry.name for entry in folder.iterdir() if (entry / PARAMS_FILE.name).is_file())


def pipeline_title(pipeline: str) -> str:
    """The title of a packaged pipeline: the first sentence of the first comment in its params.yaml."""
    lines = takewhile(lambda line: line.startswith("#"), _read(f"pipelines/{pipeline}/{PARAMS_FILE}").splitlines())
    comment = " ".join(line.removeprefix("# ") for line in lines)
    return re.split(r"(?<!al)\. ", comment)[0].removesuffix(".")


def refuse_existing(files: Mapping[Path, str]) -> None:
    """Refuses files that exist already.

    Raises:
        ConfigError: a file exists.
    """
    there = [str(path) for path in files if os.path.lexists(path)]
    if there:
        raise ConfigError(
            f"{' and '.join(there)} {'exist' if len(there) > 1 else 'exists'} already; nothing was written.",
            "an empty folder, or --name with another name for the task" if _only_task(files) else "an empty folder",
        )


def write_project(files: Mapping[Path, str]) -> list[Path]:
    """Writes the files of a project, and makes the working folder a DVC project if it is in none; all files or none.

    Returns:
        The files.

    Raises:
        ConfigError: one of the files exists already.
        MissingInputError: the folder cannot be written.
    """
    refuse_existing(files)
    whole = {**files, **_dvc_project()}
    written: list[Path] = []
    try:
        for path, text in whole.items():
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return written


def _only_task(files: Mapping[Path, str]) -> bool:
    return {path.parent for path in files if os.path.lexists(path)} == {USER_TASKS}


def _pipeline(task: TextTask, choice: Choice) -> str:
    """The dvc.yaml of a task."""
    data = _paths(_data_files(task))
    encoder = choice.encoder or EMBEDDED
    fetched = (choice.teacher is None and encoder == EMBEDDED) or (task.file is None and task.name == "movie")
    begin = choice.teacher or encoder
    begins = ([] if not fetched else ["assets"]) + ([str(model_folder(begin))] if Path(begin).is_dir() else [])
    deps = _paths(begins) + data
    return _filled(
        "pipeline.yaml",
        FETCH=_FETCH if fetched else "",
        BEGIN=f"    deps:{deps}\n" if deps else "",
        DATA=data,
        TASK=task.name,
    )


def _data_files(task: TextTask) -> list[str]:
    """The task file and the files of rows of a user's task; empty for a packaged task."""
    if task.folder is None:
        return []
    paths = [os.path.normpath(task.folder / file) for file in sorted(set(task.files.values()))]
    own = task.file or USER_TASKS / f"{task.name}.yaml"
    return [*(path for path in paths if os.path.isfile(path)), own.as_posix()]


def _paths(paths: list[str]) -> str:
    return "".join(f"\n      - {_quoted(path)}" for path in paths)


def _dvc_project() -> dict[Path, str]:
    """The files of `dvc init`; none if the folder is in a DVC project."""
    here = Path.cwd()
    around = (here, *here.parents)
    if any((folder / _DVC).is_dir() for folder in around):
        return {}
    in_git = any((folder / ".git").exists() for folder in around)
    config = _filled(
        "dvc-config", NO_SCM="" if in_git else " --no-scm", CORE="" if in_git else "    no_scm = true  # no git\n"
    )
    return {_DVC / "config": config, _DVC / ".gitignore": "/config.local\n/tmp\n/cache\n"}


def _read(name: str) -> str:
    return (resources.files("kdqat_cli") / "projects").joinpath(*name.split("/")).read_text(encoding="utf-8")


def _filled(template: str, **values: str) -> str:
    """A template with a value in place of each @NAME@."""
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], _read(f"templates/{template}"))


def _quoted(value: object) -> str:
    """A value as YAML. JSON is YAML in which no text looks like a number or a truth value; a simple path is plain."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w/-]*(\.[A-Za-z]\w*)?", value, re.ASCII):
        return value if value.lower() not in ("null", "true", "false") else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
