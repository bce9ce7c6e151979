"""Tasks by name, and the kinds of tasks.

A task is a YAML file, packaged or the user's own. Its key `kind` names the kind of its rows. Each kind has a schema of
the file, and code that reads rows and models (`Kind`). `register` adds a kind.
"""

import difflib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdqat_cli.config import Device, parse
from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.files import is_there, names_in
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.task import SUFFIXES, Task
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.yaml12 import read_yaml

if TYPE_CHECKING:
    from kdqat_cli.tasks.answers import Answerer
    from kdqat_cli.tasks.kind import Kind

USER_TASKS = Path("tasks")


Opener = Callable[[Path, int | None, Device | None], "Answerer"]
"""Loads a packed file: (path, threads, device) → answerer."""


class _Entry(NamedTuple):
    schema: type[Task]
    load: "Callable[[], Kind]"
    packed: Callable[[], Opener] | None = None


def _text() -> "Kind":
    from kdqat_cli.tasks.text.kind import TEXT

    return TEXT


def _packed_text() -> Opener:
    from kdqat_cli.tasks.text.answers import PackedAnswerer

    return PackedAnswerer


def _image() -> "Kind":
    from kdqat_cli.tasks.image.kind import IMAGE

    return IMAGE


def _translation() -> "Kind":
    from kdqat_cli.tasks.translation.kind import TRANSLATION

    return TRANSLATION


KINDS: dict[str, _Entry] = {
    "text": _Entry(TextTask, _text, _packed_text),
    "image": _Entry(ImageTask, _image),
    "translation": _Entry(TranslationTask, _translation),
}


def register(name: str, schema: type[Task], load: "Callable[[], Kind]") -> None:
    """Adds a kind of task; its name is then a value of `kind` in a task file.

    Args:
        name: name of the kind.
        schema: schema of its task files.
        load: a function that imports the kind and returns it, so that `--help` does not wait for torch.

    Raises:
        ValueError: the name is already used.
    """
    if name in KINDS:
        raise ValueError(f"the name {name!r} is taken")
    KINDS[name] = _Entry(schema, load)


def kind_of(task: Task) -> "Kind":
    """The kind of a task."""
    return KINDS[task.kind].load()


def kind_named(name: str) -> "Kind":
    """A kind by its name in a record.

    Raises:
        ConfigError: there is no such kind.
    """
    if name not in KINDS:
        raise ConfigError(
            f"kdqat does not know rows of the kind {shown(name)}; it knows {', '.join(KINDS)}.",
            "plugins: in params.yaml, if a plugin adds the kind",
        )
    return KINDS[name].load()


def packed_answerer(name: str) -> Opener | None:
    """The function that loads a packed model of a kind without torch; None: the kind needs torch."""
    packed = KINDS[name].packed if name in KINDS else None
    return packed() if packed else None


def task_names() -> list[str]:
    """Names of the packaged tasks."""
    folder = resources.files("kdqat_cli") / "tasks"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def user_task_names() -> list[str]:
    """Names of the tasks in tasks/ of the working folder, without hidden files."""
    paths = [Path(name) for name in names_in(USER_TASKS) if not name.startswith(".")]
    return sorted({path.stem for path in paths if path.suffix in SUFFIXES})


def load_task(name: str) -> Task:
    """Loads a task by name (packaged, or tasks/NAME.yaml in the working folder) or by the path of its YAML file.

    Raises:
        ConfigError: the name is unknown, two tasks have it, or the file has errors; the message has all of them.
        MissingInputError: the file does not exist or cannot be read.
    """
    if name.endswith(SUFFIXES):
        return _read_own(Path(name))
    own = [path for suffix in SUFFIXES if is_there(path := USER_TASKS / f"{name}{suffix}")]
    packaged = name in task_names()
    if len(own) + packaged > 1:
        given = " and ".join([*(["a packaged task"] if packaged else []), *map(str, own)])
        raise ConfigError(f"Two tasks are called {name}: {given}.", f"rename yours (file and name), or --task {own[0]}")
    if own:
        return _read_own(own[0])
    if not packaged:
        raise _unknown(name)
    with resources.as_file(resources.files("kdqat_cli") / "tasks" / f"{name}.yaml") as path:
        return _read_task(path, f"task {name}")


def load_text_task(name: str) -> TextTask:
    """Loads a task whose rows are texts; see `load_task`.

    Raises:
        ConfigError: the task is of another kind.
    """
    task = load_task(name)
    if not isinstance(task, TextTask):
        raise ConfigError(f"The rows of task {task.name} are of the kind {task.kind}, but this needs text.")
    return task


def _read_own(path: Path) -> Task:
    return _read_task(path, str(path)).model_copy(update={"folder": path.parent})


def _unknown(name: str) -> ConfigError:
    known = [*task_names(), *user_task_names()]
    close = difflib.get_close_matches(name, known, n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return ConfigError(f"There is no task {name!r}{hint}", fix="kdqat ls tasks")


def _read_task(path: Path, where: str) -> Task:
    value = read_yaml(path)
    kind = value.get("kind", "text") if isinstance(value, dict) else "text"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where}: kind is {shown(kind)}; the kinds are {', '.join(KINDS)}.")
    task = parse(KINDS[kind].schema, value, where)
    faults = task.faults()
    if task.name != path.stem:
        faults.insert(0, f"name is {task.name}, but the file's name is {path.stem}.")
    if faults:
        raise ConfigError("\n".join(f"{where}: {fault}" for fault in faults))
    return task
