"""YAML 1.2 scalars against ruamel.yaml, with which DVC reads params.yaml; and files that are refused."""

import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.yaml12 import read_text, read_yaml

SCALARS: dict[str, Any] = {
    "2e-5": 2e-5,
    "4e-05": 4e-5,
    "1E3": 1000.0,
    "1e+3": 1000.0,
    "-1.5e-3": -0.0015,
    "0.1": 0.1,
    ".5": 0.5,
    "-.5": -0.5,
    "5.": 5.0,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "7": 7,
    "-7": -7,
    "+7": 7,
    "0": 0,
    "010": 10,
    "0o10": 8,
    "0x1F": 31,
    "true": True,
    "True": True,
    "FALSE": False,
    "null": None,
    "Null": None,
    "~": None,
    "": None,
    "on": "on",
    "off": "off",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "tRue": "tRue",
    "nULL": "nULL",
    "1:30": "1:30",
    "190:20:30": "190:20:30",
    "e5": "e5",
    ".": ".",
    "-": "-",
    "+": "+",
    "1.2.3": "1.2.3",
    "map+output": "map+output",
    "'2e-5'": "2e-5",
    '"true"': "true",
    "'~'": "~",
    "0o9": "0o9",
    "0xG": "0xG",
    "--1": "--1",
    "1e": "1e",
}
# Strings in the core schema of 1.2. ruamel.yaml reads most of them as in YAML 1.1, so they are not compared.
STRINGS = ["1_000", "1_0.5", "2001-12-14", "2001-12-14t21:59:43.10-05:00", "0b11", "=", "<<x"]


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, scalar: str) -> None:
    if scalar == "-":
        scalar = "'-'"  # alone, a dash begins a list
    text = f"key: {scalar}\n"
    mine = read(tmp_path, text)["key"]
    assert same(mine, SCALARS.get(scalar, "-"))
    assert same(mine, YAML(typ="safe", pure=True).load(text)["key"]), "as DVC reads it"


@pytest.mark.parametrize("scalar", STRINGS)
def test_strings_in_yaml_1_2(tmp_path: Path, scalar: str) -> None:
    assert read(tmp_path, f"key: {scalar}\n") == {"key": scalar}


def test_not_a_number(tmp_path: Path) -> None:
    assert all(math.isnan(value) for value in read(tmp_path, "[.nan, .NaN, .NAN]"))


DOCUMENT = """\
# a comment
settings:
  movie: {teacher: {epochs: 1}, student: {learning_rate: 2e-5}}
  rte:
    text: |
      two
      lines
    folded: >-
      one
      line
list: [a, 1, 1.0, null, [true, on]]
anchors: &x {a: 1}
again: *x
"merged":
  - b: 2
1: an integer key
? explicit
: value
"""


def test_documents_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    value = read(tmp_path, DOCUMENT)
    assert value == YAML(typ="safe", pure=True).load(DOCUMENT)
    assert value["settings"]["movie"]["student"]["learning_rate"] == 2e-5
    assert value["list"] == ["a", 1, 1.0, None, [True, "on"]]


def test_an_empty_file_is_null(tmp_path: Path) -> None:
    assert read(tmp_path, "") is None
    assert read(tmp_path, "# nothing\n") is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a'"),
        ("outer: {x: 1, y: 2, x: 1}\n", "'x'"),
        ("- deep:\n    k: 1\n    k: 1\n", "'k'"),
        ("1: a\n01: b\n", "1"),
        ("a: 1\n'a': 2\n", "'a'"),
    ],
)
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"the key {key} occurs twice"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2", "a: b: c", "\tx: 1", "a: 'open", "{a: 1}}", "a: *nowhere", "--- 1\n--- 2\n", "? [a, b]\n: c\n", "%\n"],
)
def test_invalid_yaml_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml is not valid YAML: .*line \d+") as caught:
        read(tmp_path, text)
    assert "\n" not in caught.value.sentence
    assert caught.value.exit_code == 2


def test_a_tab_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found character '\\t' .*\(line 2, column 1\)\.$") as caught:
        read(tmp_path, "a:\n\tb: 1\n")
    assert caught.value.fix == "spaces in place of the tab"


def test_unclosed_brackets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(tmp_path, "[" * 1000)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch {marker}']",
        "a: !!python/name:os.system",
        "!!python/object:kdqat_cli.errors.KdqatError {}",
        "a: !custom 1",
    ],
)
def test_tags_that_construct_objects_are_refused(tmp_path: Path, text: str) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(tmp_path, text.replace("{marker}", str(marker)))
    assert not marker.exists()


@pytest.mark.parametrize(
    "value", ["!!int four", "!!float x", "!!bool maybe", "!!timestamp x", "!!map [1]", "1" * 5000], ids=lambda x: x[:9]
)
def test_a_tag_with_an_unfitting_value_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(tmp_path, f"a: {value}\n")


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes("name: schön\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"file\.yaml, line 1 is not UTF-8"):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").touch()
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "file.yaml" / "inside.yaml"):
        with pytest.raises(MissingInputError, match=str(path)) as caught:
            read_text(path)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "\n".join(" " * level + "a:" for level in range(65))])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="nest more than 64 levels deep"):
        read(tmp_path, text)


def test_less_deep_nesting_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, f"- {'[' * 63}{']' * 63}\n" * 3) == read(
        tmp_path, f"[{', '.join(['[' * 63 + ']' * 63] * 3)}]"
    )
