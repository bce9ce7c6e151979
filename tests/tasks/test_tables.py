"""Quotes, line ends and headers of tab and comma separated files: rows are never silently joined or confused."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.schema import Columns
from tests.tasks.test_data import mood

# Six rows. If quotes enclosed cells, the first row would include the next three.
STRAY = [
    ('"Great film', "glad"),
    ("a sad room", "sad"),
    ("a fine day", "glad"),
    ('what a film"', "sad"),
    ('sunny "calm" day', "glad"),
    ("dark room", "sad"),
]
ENCLOSED = [("Sun,\nat last\tfor all", "glad"), ('say "hi"', "sad")]


def rows(folder: Path, file: str, content: str, **changes: Any) -> list[tuple[str, int]]:
    (folder / file).write_text(content, encoding="utf-8", newline="")
    read = load_split(mood(files={"train": file, "dev": file}, **changes), "dev", folder)
    return list(zip(read["text"][:], read["label"][:], strict=True))


def plain(table: list[tuple[str, str]], separator: str = "\t") -> str:
    return "".join(f"{text}{separator}{label}\n" for text, label in [("sentence", "mood"), *table])


def refused(folder: Path, file: str, content: str, **changes: Any) -> MissingInputError:
    with pytest.raises(MissingInputError) as caught:
        rows(folder, file, content, **changes)
    assert str(folder / file) in caught.value.sentence
    return caught.value


@pytest.mark.parametrize("file", ["dev.tsv", "dev.txt"])
def test_quotes_of_unknown_meaning_are_refused(file: str, tmp_path: Path) -> None:
    error = refused(tmp_path, file, plain(STRAY))
    assert f"{file}, line 2: a cell begins with a double quote ('\"Great film')" in error.sentence
    assert error.fix is not None
    assert error.fix.startswith("quoting: false in the task file")
    error = refused(tmp_path, file, 'sentence\tmood\nA\tsad\n"B"\tsad\n')
    assert f"{file}, line 3: a cell begins with a double quote" in error.sentence
    assert "line 1: " in refused(tmp_path, file, '"sentence"\t"mood"\nA\tsad\n').sentence


@pytest.mark.parametrize("file", ["dev.tsv", "dev.csv"])
def test_quotes_that_are_part_of_the_text(file: str, tmp_path: Path) -> None:
    content = plain(STRAY, "," if file.endswith("csv") else "\t")
    read = rows(tmp_path, file, content, quoting=False)
    assert read == [(text, ["sad", "glad"].index(label)) for text, label in STRAY]


def test_a_quote_inside_a_cell_has_one_meaning(tmp_path: Path) -> None:
    inner = STRAY[3:]
    expected = [(text, ["sad", "glad"].index(label)) for text, label in inner]
    for quoting in (None, True, False):
        assert rows(tmp_path, "dev.tsv", plain(inner), quoting=quoting) == expected


@pytest.mark.parametrize(("file", "quoting"), [("dev.csv", None), ("dev.csv", True), ("dev.tsv", True)])
def test_cells_that_are_enclosed(file: str, quoting: bool | None, tmp_path: Path) -> None:
    with (tmp_path / file).open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="," if file.endswith("csv") else "\t")
        writer.writerows([("sentence", "mood"), *ENCLOSED])
    content = (tmp_path / file).read_bytes().decode()
    assert rows(tmp_path, file, content, quoting=quoting) == [(ENCLOSED[0][0], 1), (ENCLOSED[1][0], 0)]


@pytest.mark.parametrize(
    ("file", "quoting", "content", "lines"),
    [
        ("dev.csv", None, plain(STRAY[:4], ","), (2, 5)),
        ("dev.tsv", True, plain(STRAY[:4]), (2, 5)),
        ("dev.tsv", True, 'mood\tsentence\nglad\tfine\nsad\t"a\nglad\tb\nsad\tc"\nsad\td\n', (3, 5)),
        # Not every included row looks like a row: texts with separators, an empty line, no label.
        ("dev.csv", None, 'sentence,mood\n"Great,sad\ngood, but long,glad\na film",sad\n', (2, 4)),
        ("dev.csv", None, 'sentence,mood\n"Great, or not,sad\na film",sad\n', (2, 3)),
        ("dev.csv", None, 'sentence,mood\n"Great,sad\n\nno label\na film",sad\n', (2, 5)),
        ("dev.csv", None, 'sentence,mood\n"Great\ngood,glad\na film",sad\n', (2, 4)),
        ("dev.csv", None, 'mood,sentence\nsad,"Great\nglad,good, but long\n\nsad,a film"\n', (2, 5)),
        ("dev.csv", None, 'id,mood,sentence\n1,sad,"Great\nno label\n3,sad,a film"\n', (2, 4)),
        ("dev.csv", None, 'sentence,mood,id\n"Great,sad,1\na film",sad,2\n', (2, 3)),
    ],
)
def test_a_quote_that_includes_whole_rows_is_refused(
    file: str, quoting: bool | None, content: str, lines: tuple[int, int], tmp_path: Path
) -> None:
    error = refused(tmp_path, file, content, quoting=quoting)
    place = f"line {lines[0]}: a double quote opens a cell that takes in the next rows, to line {lines[1]}."
    assert place in error.sentence
    assert error.fix is not None
    assert error.fix.startswith("quoting: false in the task file, if double quotes are part of the text; a .jsonl file")


@pytest.mark.parametrize(
    "content",
    [
        'sentence,mood\n"Is it good? Well, sad\nit is, glad\nto say",sad\n',  # in prose a space follows a comma
        'mood,sentence\nsad,"Good?\nsad, it is\nsad"\n',
        'sentence,mood\n"one\ntwo, three\n\nfour",sad\n',
        'mood,sentence\nsad,"one\ntwo\nthree, four"\n',
        'sentence,mood,note\n"one\ntwo",sad,"three\nfour"\n',  # the line between has the label of its own row
        'sentence,mood,note\n"one\ntwo",sad,"glad,glad,glad"\n',
    ],
)
def test_a_cell_with_several_lines_is_one_row(content: str, tmp_path: Path) -> None:
    table = list(csv.DictReader(io.StringIO(content, newline="")))
    assert rows(tmp_path, "dev.csv", content) == [(table[0]["sentence"], 0)]


@pytest.mark.parametrize(
    ("header", "fix"),
    [
        ("sentence;mood", "cells separated by commas in a .csv and by tabs in a .tsv, in place of ';'"),
        ("sep=,\nsentence,mood", "the file without its line sep="),
        ("sentence, mood", "the name of that column in the task file (columns) and in the file's header: ' mood'"),
        ("sentence,Mood", "the name of that column in the task file (columns) and in the file's header: 'Mood'"),
        ("sentence,label", "the name of that column in the task file (columns) and in the file's header"),
    ],
)
def test_a_missing_column_is_reported_with_its_remedy(header: str, fix: str, tmp_path: Path) -> None:
    assert refused(tmp_path, "dev.csv", f"{header}\nA,sad\n").fix == fix


def test_a_number_on_each_line_of_a_cell_is_not_a_row(tmp_path: Path) -> None:
    """The lines would be rows if they had valid labels."""
    scored = {"labels": None, "range": [0.0, 5.0], "metric": "pearson"}
    assert rows(tmp_path, "dev.csv", 'sentence,mood\n"9,9\n9,9",3\n', **scored) == [("9,9\n9,9", 3.0)]


def test_a_lone_carriage_return_is_text_in_a_plain_cell(tmp_path: Path) -> None:
    assert rows(tmp_path, "dev.tsv", "sentence\tmood\na fine\rday\tglad\r\nb\tsad") == [("a fine\rday", 1), ("b", 0)]
    assert rows(tmp_path, "dev.csv", 'sentence,mood\n"a fine\rday",glad\n') == [("a fine\rday", 1)]


@pytest.mark.parametrize("file", ["dev.tsv", "dev.csv"])
def test_carriage_returns_as_line_ends_are_refused(file: str, tmp_path: Path) -> None:
    """In the whole file or in some lines; rows must not be joined."""
    content = plain([("a", "sad"), ("b", "glad"), ("c", "sad")], "," if file.endswith("csv") else "\t")
    error = refused(tmp_path, file, content.replace("\n", "\r"))
    assert error.fix == "tr '\\r' '\\n' < FILE > NEW, if a carriage return (CR) ends each line of the file"
    assert "\r" not in error.sentence
    some = content.replace("glad\n", "glad\r")
    wanted = "outside of quotes" if file.endswith("csv") else "line 3: 3 columns instead of 2"
    assert wanted in refused(tmp_path, file, some).sentence


@pytest.mark.parametrize("file", ["dev.tsv", "dev.csv"])
@pytest.mark.parametrize("twice", ["mood", "sentence"])
def test_a_column_that_occurs_twice_is_refused(file: str, twice: str, tmp_path: Path) -> None:
    table = f"sentence\tmood\t{twice}\nA\tsad\tglad\n".replace("\t", "," if file.endswith("csv") else "\t")
    assert f"line 1: the column '{twice}' occurs twice." in refused(tmp_path, file, table).sentence


def test_unused_columns_may_share_a_name(tmp_path: Path) -> None:
    """For example the empty columns of a spreadsheet."""
    assert rows(tmp_path, "dev.csv", "sentence,,mood,,\nA,1,sad,2,\n") == [("A", 0)]


def test_empty_lines_before_the_header(tmp_path: Path) -> None:
    for file, separator in (("dev.tsv", "\t"), ("dev.csv", ",")):
        content = f"\n\n{plain([('A', 'sad'), ('B', 'happy')], separator)}"
        assert f"{file}, line 5: the label 'happy'" in refused(tmp_path, file, content).sentence


def test_a_header_in_the_task_file(tmp_path: Path) -> None:
    columns = Columns(text="s", label="m")
    assert rows(tmp_path, "dev.tsv", "A\tsad\n", header=["s", "m"], columns=columns) == [("A", 0)]
