"""Checks that the stages of dvc.yaml name the modules of kdqat that they depend on, and writes the correct names.

It checks a dvc.yaml beside the folder kdqat_cli, and only stages that name at least one module. A pipeline that depends
only on settings and data names no module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from kdqat_cli.errors import ConfigError
from kdqat_cli.parallel.modules import PACKAGE, Modules
from kdqat_cli.yaml12 import read_text

_SHOWN = 3  # paths in an error; `kdqat validate --fix` writes them all


@dataclass(frozen=True)
class Stale:
    """A stage that does not name exactly the modules that it depends on.

    Attributes:
        stage: name of the stage.
        lines: numbers of the lines of dvc.yaml with a module, from 0.
        missing: modules that it depends on but does not name.
        idle: modules that it names but does not depend on.
        needed: all modules that it must name.
    """

    stage: str
    lines: list[int]
    missing: list[str]
    idle: list[str]
    needed: list[str]

    def sentence(self, pipeline: Path) -> str:
        """The fault as a sentence."""
        parts = [f"does not name {_listed(self.missing)}, on which it depends"] if self.missing else []
        parts += [f"names {_listed(self.idle)}, on which it does not depend"] if self.idle else []
        return f"{pipeline}: the stage {self.stage} {'; it '.join(parts)}."


def stale_stages(pipeline: Path) -> list[Stale]:
    """The stages whose `deps` are not the modules that their command depends on.

    Raises:
        ConfigError: dvc.yaml is not YAML, or a module is not valid Python.
    """
    found = list(_stages(read_text(pipeline), pipeline))
    if not any(name.value.startswith(PACKAGE.name) for _, _, names in found for name in names) or not PACKAGE.is_dir():
        return []
    modules = Modules()
    stale = []
    for stage, commands, names in found:
        listed = {name.value: name.start_mark.line for name in names if _is_module(name.value)}
        if not listed:
            continue
        needed = modules.needed(commands)
        missing = [path for path in needed if not any(_covers(name, path) for name in listed)]
        idle = [name for name in listed if not any(_covers(name, path) for path in needed)]
        if missing or idle:
            stale.append(Stale(stage, sorted(listed.values()), missing, idle, needed))
    return stale


def mend(pipeline: Path, stale: list[Stale]) -> str:
    """The text of dvc.yaml with the modules that the stages depend on; everything else does not change.

    Raises:
        ConfigError: a stage does not name one path per line.
    """
    lines = read_text(pipeline).splitlines(keepends=True)
    for entry in sorted(stale, key=lambda entry: entry.lines[0], reverse=True):  # keeps line numbers correct
        first = lines[entry.lines[0]]
        indent, dash, _ = first.partition("- ")
        if not dash or indent.strip() or len(set(entry.lines)) != len(entry.lines):
            raise ConfigError(f"{pipeline}: the stage {entry.stage} must name one dependency per line, as - PATH.")
        for number in reversed(entry.lines):
            del lines[number]
        lines[entry.lines[0] : entry.lines[0]] = [f"{indent}- {path}\n" for path in entry.needed]
    return "".join(lines)


def _stages(text: str, pipeline: Path) -> Iterator[tuple[str, list[str], list[yaml.ScalarNode]]]:
    """(name, commands, dependencies) of each stage; foreach and matrix are not expanded."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{pipeline} is not valid YAML: {' '.join(str(error).split())}") from error
    for name, stage in _entries(_entries(root).get("stages")).items():
        fields = _entries(stage)
        fields = _entries(fields.get("do")) or fields
        yield name, [node.value for node in _scalars(fields.get("cmd"))], _scalars(fields.get("deps"))


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _scalars(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [entry for entry in nodes if isinstance(entry, yaml.ScalarNode)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is_module(name: str) -> bool:
    return Path(name).parts[:1] == PACKAGE.parts


def _covers(name: str, path: str) -> bool:
    return Path(path).is_relative_to(name)
