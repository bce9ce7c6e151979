"""YAML 1.2 (core schema) through PyYAML.

PyYAML speaks YAML 1.1, where `2e-5` is a string, `on` is true and `010` is eight. DVC reads and writes params.yaml
as YAML 1.2, so kdqat does too. Duplicate keys are refused: the second would silently win. So are aliases that unfold
to more than any honest file holds ("a billion laughs"), or that contain themselves.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import read_bytes, text_of

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
"""Bytes of a YAML file: some ten thousand class names. PyYAML takes seconds for more."""
_DEEPEST = 64
"""Levels that lists and mappings may nest; PyYAML's time for a token grows with them."""
_MOST_NODES = 100_000
"""Values, keys and lists of a file, with every alias unfolded."""
_LARGEST_INTEGER = 2**63


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1's; filled below
    depth = 0  # of the node that is being read

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _unfolded(node, {}) > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"it holds more than {_MOST_NODES} values, its aliases unfolded", node.start_mark
            )
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            sentence = f"lists and mappings nest more than {_DEEPEST} levels deep"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, sentence, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
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
                sentence = f"the key {key!r} stands twice"
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
    """Nodes at and below one; infinite where it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted: whoever asks meanwhile stands inside of it
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
        MissingInputError: no such file, not a regular file, not readable, or too large for a file of settings.
        ConfigError: not UTF-8.
    """
    data = read_bytes(path, LARGEST)
    try:
        return text_of(path, data)
    except MissingInputError as error:
        raise ConfigError(error.sentence, error.fix) from error


def read_yaml(path: Path) -> Any:
    """The value of one YAML 1.2 file.

    Raises:
        MissingInputError: no such file, not a regular file, not readable, or too large for a file of settings.
        ConfigError: not YAML, not UTF-8, or a key that stands twice.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML 1.2 text.

    Args:
        text: the YAML.
        where: what the errors call it.

    Raises:
        ConfigError: not YAML, or a key that stands twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, with the YAML 1.2 scalars
    except yaml.MarkedYAMLError as error:
        raise ConfigError(*_fault(error, where)) from error
    # A tag that its value does not fit (`!!int four`) escapes PyYAML as one of the plain exceptions.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _fault(error: yaml.MarkedYAMLError, where: str) -> tuple[str, str | None]:
    """The sentence about a text that is not YAML, and its fix as far as that can be told."""
    mark = error.problem_mark or error.context_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    problem = " ".join(str(error.problem or error.context).split())
    fix = "blanks in place of the tab" if "'\\t'" in problem else None
    return f"{where} is not valid YAML: {problem}{place}.", fix
