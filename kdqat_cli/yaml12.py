"""YAML 1.2 (core schema) through PyYAML.

PyYAML speaks YAML 1.1, where `2e-5` is a string, `on` is true and `010` is eight. DVC reads and writes params.yaml
as YAML 1.2, so kdqat does too. Duplicate keys are refused: the second would silently win.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from kdqat_cli.errors import ConfigError, MissingInputError

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


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1's; filled below

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
        if text.startswith("0o"):
            return int(text[2:], 8)
        return int(text, 16) if text.startswith("0x") else int(text, 10)


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    _first_characters = [character if character != "\0" else "" for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first_characters)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_core_int)


def read_text(path: Path) -> str:
    """The text of one UTF-8 file.

    Raises:
        MissingInputError: no such file.
        ConfigError: not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingInputError(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.") from error


def read_yaml(path: Path) -> Any:
    """The value of one YAML 1.2 file.

    Raises:
        MissingInputError: no such file.
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
    # A tag that its value does not fit (`!!int four`) escapes PyYAML as one of the plain exceptions.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
