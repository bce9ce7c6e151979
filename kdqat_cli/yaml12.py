"""YAML 1.2 (core schema) through PyYAML.

PyYAML reads YAML 1.1, in which `2e-5` is a string, `on` is true and `010` is eight. DVC reads and writes params.yaml as
YAML 1.2, so kdqat does too. Duplicate keys are refused, because the second would silently replace the first. Aliases
that expand to far more values than any real file ("a billion laughs"), or that contain themselves, are refused too.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import read_bytes, text_of

Yaml = Any
"""A value from YAML before its check: a mapping, a list, a string, a number, true, false or null."""

# YAML 1.2.2, section 10.3.2, "Tag Resolution": the whole core schema.
_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}

LARGEST = 2**18
"""Largest number of bytes of a YAML file, enough for ten thousand class names. PyYAML takes seconds for more."""
_DEEPEST = 64
"""Largest depth of nested lists and mappings; PyYAML's time per token grows with it."""
_MOST_NODES = 100_000
"""Largest number of values, keys and lists of a file, with every alias expanded."""
_LARGEST_INTEGER = 2**63


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - without those of YAML 1.1; filled below
    depth = 0  # depth of the current node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _unfolded(node, {}) > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"it has more than {_MOST_NODES} values, with its aliases expanded", node.start_mark
            )
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            sentence = f"lists and mappings nest more than {_DEEPEST} levels deep"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, sentence, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Yaml]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            try:
                known = key in seen
                seen.add(key)
            except TypeError as error:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain value", key_node.start_mark
                ) from error
            if known:
                sentence = f"the key {key!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, sentence, key_node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_core_int(self, node: yaml.ScalarNode) -> int:
        text = node.value
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = int(text.removeprefix("0o"), base)
        if abs(number) >= _LARGEST_INTEGER:
            raise yaml.constructor.ConstructorError(None, None, "an integer has more than 64 bits", node.start_mark)
        return number


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """The number of nodes in a node, itself included; infinite if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted; a node that finds this value is inside of it
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    _first_characters = [character if character != "\0" else "" for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first_characters)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_core_int)


def read_text(path: Path) -> str:
    """The text of one small UTF-8 file.

    Raises:
        MissingInputError: the file does not exist, is not a regular file, cannot be read, or is too large.
        ConfigError: the file is not UTF-8.
    """
    data = read_bytes(path, LARGEST)
    try:
        return text_of(path, data)
    except MissingInputError as error:
        raise ConfigError(error.sentence, error.fix) from error


def read_yaml(path: Path) -> Yaml:
    """The value of one YAML 1.2 file.

    Raises:
        MissingInputError: the file does not exist, is not a regular file, cannot be read, or is too large.
        ConfigError: the file is not YAML or not UTF-8, or a key occurs twice.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Yaml:
    """The value of a YAML 1.2 text.

    Args:
        text: the YAML text.
        where: its name in errors.

    Raises:
        ConfigError: the text is not YAML, or a key occurs twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, with the YAML 1.2 scalars
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_fault(error, where)) from error
    # For a tag that does not fit its value (`!!int four`), PyYAML raises one of the plain exceptions.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _fault(error: yaml.MarkedYAMLError, where: str) -> tuple[str, str | None]:
    """The sentence about a text that is not YAML, and its fix if it is known."""
    mark = error.problem_mark or error.context_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    problem = " ".join(str(error.problem or error.context).split())
    fix = "spaces in place of the tab" if "'\\t'" in problem else None
    return f"{where} is not valid YAML: {problem}{place}.", fix
