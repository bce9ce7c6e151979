"""Names that commands and stages share, without heavy imports, and the default places of results.

If the settings of a result differ from params.yaml and its recipe, the name of its folder has the differences:
`--loss map --beta 0.3 --weights int8` gives runs/TASK/student/map-int8-beta0.3-SEED.
"""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from kdqat_cli.config import Params, Settings
from kdqat_cli.names import FORMATS
from kdqat_cli.params import resolve

Listed = Literal[
    "tasks", "losses", "recipes", "pipelines", "encoders", "networks", "formats", "measures", "figures", "published"
]
"""The things that `kdqat ls` lists."""

EMBEDDED = "embedded"
"""The value of `--encoder` for the encoder that `kdqat fetch` downloads."""
EMBEDDED_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""The id of that encoder on the model hub."""
RUNS = Path("runs")
METRICS = Path("metrics")
ANALYSIS = Path("analysis")
PIPELINE = Path("dvc.yaml")


_DISTILL = ("student", "quantization", "distillation", "network")
_QUANTIZE = ("student.max_length", "student.padding", "student.batch_size", "quantization")
_VALUE_ALONE = ("weights", "mix", "method")  # fields whose values are clear without the name of the field


class Named(Protocol):
    """The fields of a task that the name of a folder depends on."""

    @property
    def name(self) -> str:
        """The name of the task."""

    @property
    def kind(self) -> str:
        """The kind of the task."""


def student_run(task: Named, params: Params, recipe: str | None, settings: Settings, network: str | None = None) -> str:
    """The name of a distillation without its seed: its loss, and its differences from params.yaml.

    Args:
        task: the task.
        params: params.yaml.
        recipe: a recipe that replaces the recipe of params.yaml, or None.
        settings: the settings of the distillation.
        network: the network of the student if it is not a copy of its teacher.
    """
    return "-".join(
        [
            *([network] if network else []),
            settings.distillation.loss,
            *_differences(task, params, recipe, settings, _DISTILL),
        ]
    )


def ternary_folder(task: Named, params: Params, recipe: str | None, settings: Settings) -> Path:
    """The folder that `quantize` writes; `student_run` explains the arguments."""
    return RUNS / task.name / "-".join(["ternary", *_differences(task, params, recipe, settings, _QUANTIZE)])


def teacher_folder(task: str) -> Path:
    """The folder that `finetune-teacher` writes."""
    return RUNS / task / "teacher"


def student_folder(task: str, run: str, seed: int) -> Path:
    """The folder that `distill` writes."""
    return RUNS / task / "student" / f"{run}-{seed}"


def taught_folder(task: str) -> Path:
    """The folder in which `distill` caches a teacher's translations of the training rows."""
    return RUNS / task / "taught"


def export_folder(task: str, format_name: str, run: str, seed: int) -> Path:
    """The folder that `export` writes."""
    return RUNS / task / format_name / f"{run}-{seed}"


def writer_of(folder: str) -> str | None:
    """The command that writes a folder under runs/, by its place; None: it is not under runs/."""
    try:
        task, kind, *_ = Path(folder).absolute().relative_to(RUNS.absolute()).parts
    except ValueError:
        return None
    if kind in FORMATS:
        return f"kdqat export --task {task}" + ("" if kind == "packed" else f" --format {kind}")
    command = {"teacher": "finetune-teacher", "ternary": "quantize", "student": "distill"}.get(kind.partition("-")[0])
    return f"kdqat {command} --task {task}" if command else None


class Place(NamedTuple):
    """The task and the model in the path of a file under metrics/, for files without this information."""

    task: str
    """Name of the task."""
    model: str
    """`teacher`, `ternary`, `student`, `packed`, or a name that the user chose."""
    run: str
    """Name of the run, with its seed; "" if a task has only one such model."""

    def split(self, seed: int | None = None) -> tuple[str, int | None]:
        """The run without its seed, and the seed.

        Args:
            seed: the seed if it is known; otherwise the number at the end of the run.
        """
        if seed is not None:
            return self.run.removesuffix(f"-{seed}"), seed
        name, dash, end = self.run.rpartition("-")
        return (name, int(end)) if dash and end.isdecimal() else (self.run, None)


def metrics_place(path: Path) -> Place | None:
    """The place of metrics/TASK/MODEL.json or metrics/TASK/MODEL/RUN-SEED.json; None for any other path."""
    _, *parts = path.with_suffix("").parts
    if len(parts) not in (2, 3):
        return None
    task, model, *rest = parts
    if model.startswith("ternary-"):  # other settings, see `ternary_folder`
        model, _, name = model.partition("-")
        rest = rest or [name]
    return Place(task, model, rest[0] if rest else "")


def _differences(
    task: Named, params: Params, recipe: str | None, settings: Settings, places: tuple[str, ...]
) -> list[str]:
    """The name of the recipe if it changes a setting, and each field that differs from the recipe."""
    plain, base, asked = (
        _fields(value, places)
        for value in (
            resolve(task.name, params, kind=task.kind),
            resolve(task.name, params, recipe, kind=task.kind),
            settings,
        )
    )
    parts = [Path(recipe).stem] if recipe and base != plain else []
    for place, value in asked.items():
        if value != base.get(place):
            name = place.rpartition(".")[2]
            shared = sum(other.rpartition(".")[2] == name for other in asked) > 1
            parts.append(_part(place if shared else name, value))
    return parts


def _fields(settings: Settings, places: tuple[str, ...]) -> dict[str, object]:
    values = {
        f"{section}.{name}": value
        for section, fields in settings.model_dump().items()
        for name, value in fields.items()
    }
    del values["distillation.loss"]  # the name begins with the loss
    del values["distillation.weak_teacher"]  # it does not change a training, it only allows it
    return {place: value for place, value in values.items() if place.startswith(places)}


def _part(name: str, value: object) -> str:
    text = "none" if value is None else "_".join(map(str, value)) if isinstance(value, list) else str(value)
    if name in _VALUE_ALONE:
        return text
    return f"{name}{text.removesuffix('.0')}" if isinstance(value, int | float | list) else f"{name}-{text}"
