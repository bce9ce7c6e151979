"""ls: lists a catalogue, one row per entry."""

from collections.abc import Callable, Mapping, Sequence

from kdqat_cli.analysis.published import load_published, published_names
from kdqat_cli.params import load_recipe, recipe_names
from kdqat_cli.store.places import Listed
from kdqat_cli.tasks.registry import load_task, task_names, user_task_names

Row = Mapping[str, object]
"""An entry of a catalogue: column → value."""


def ls(what: Listed) -> Sequence[Row]:
    """The rows of one catalogue."""
    return _CATALOGUES[what]()


def _tasks() -> Sequence[Row]:
    rows = []
    for spec in [load_task(name) for name in [*task_names(), *user_task_names()]]:
        row = {"task": spec.name, "labels": spec.answers, "metric": spec.metric, "kind": spec.kind}
        rows.append(row | spec.row | {"title": spec.title})
    return rows


def _losses() -> Sequence[Row]:
    from kdqat_cli.distillation.losses import LOSSES

    return [{"loss": name, "source": loss.source, "compares": loss.about} for name, loss in LOSSES.items()]


def _recipes() -> Sequence[Row]:
    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        student, quantization = recipe.student, recipe.quantization
        row = {"recipe": name, "optimizer": student.optimizer, "learning rate": f"{student.learning_rate:g}"}
        row |= {"padding": student.padding, "activation scale": quantization.activation_scale}
        rows.append(row | {"tasks of their own": ", ".join(recipe.tasks) or "-"})
    return rows


def _pipelines() -> Sequence[Row]:
    from kdqat_cli.projects.project import pipeline_names, pipeline_title

    return [{"pipeline": name, "runs": pipeline_title(name)} for name in pipeline_names()]


def _encoders() -> Sequence[Row]:
    from kdqat_cli.networks.families import FAMILIES

    return [{"model type": name, "layers": family.layers, "MHA(X)": family.mha} for name, family in FAMILIES.items()]


def _networks() -> Sequence[Row]:
    from kdqat_cli.networks.nets import networks

    return [
        {"network": name, "reads": net.reads, "about": net.about.get(name, "-")} for name, net in networks().items()
    ]


def _formats() -> Sequence[Row]:
    from kdqat_cli.exporters.catalogue import FORMATS

    rows = [{"format": "packed", "engine": "kdqat, transformers with kdqat", "loses": "nothing"}]
    return rows + [{"format": name, "engine": spec.engine, "loses": spec.loses} for name, spec in FORMATS.items()]


def _measures() -> Sequence[Row]:
    from kdqat_cli.analysis.catalogue import MEASURES

    return [
        {"measure": name, "about": spec.about, "taken": "if named" if spec.costly else "by default"}
        for name, spec in MEASURES.items()
    ]


def _figures() -> Sequence[Row]:
    from kdqat_cli.analysis.figures import FIGURES

    return [
        {"figure": name, "about": one.about, "drawn from": one.table or "attention maps"}
        for name, one in FIGURES.items()
    ]


def _published() -> Sequence[Row]:
    tables = [load_published(name) for name in published_names()]
    return [{"published": table.name, "about": table.about, "source": table.source} for table in tables]


_CATALOGUES: dict[Listed, Callable[[], Sequence[Row]]] = {
    "tasks": _tasks,
    "losses": _losses,
    "recipes": _recipes,
    "pipelines": _pipelines,
    "encoders": _encoders,
    "networks": _networks,
    "formats": _formats,
    "measures": _measures,
    "figures": _figures,
    "published": _published,
}
