"""Lines become texts as they arrive, and invalid lines are named."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.texts import LONGEST_LINE, Text, open_source, read_texts


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def texts_of(content: bytes, folder: Path, name: str = "lines.txt", pairs: bool | None = None) -> list[Text]:
    file = folder / name
    file.write_bytes(content)
    with open_source(file) as source:
        return [text for batch in read_texts(source, file, 2, pairs) for text in batch]


def test_lines_are_texts_pairs_or_objects(tmp_path: Path) -> None:
    content = b'a film\na\tb\r\n{"text": "c\\td"}\n  {"text": "e", "pair": "f"}\n\n[1]\n"quoted"'
    expected = [Text("a film"), Text("a", "b"), Text("c\td"), Text("e", "f"), Text(""), Text("[1]"), Text('"quoted"')]
    assert texts_of(content, tmp_path) == expected
    assert texts_of(b"", tmp_path) == []
    assert texts_of(b"\n", tmp_path) == [Text("")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    content = "one\rstill one\r\ntwo\x0b\x0c\x1c\x85\u2028still two\nthree\r\r\n".encode()
    assert texts_of(content, tmp_path) == [
        Text("one\rstill one"),
        Text("two\x0b\x0c\x1c\x85\u2028still two"),
        Text("three\r"),
    ]


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    assert texts_of(b"\xef\xbb\xbfgood\nbad", tmp_path) == [Text("good"), Text("bad")]
    assert texts_of(b'\xef\xbb\xbf{"text": "good"}\n', tmp_path) == [Text("good")]


@pytest.mark.parametrize(
    ("content", "sentence", "fix"),
    [
        ("bad\ngood\n".encode("utf-16"), "lines.txt is UTF-16 text, not UTF-8.", "iconv -f UTF-16 -t UTF-8"),
        ("bad\ngood\n".encode("utf-16-le"), "lines.txt is UTF-16LE text, not UTF-8.", "iconv -f UTF-16LE -t UTF-8"),
        ("좋아요\n".encode("cp949"), "lines.txt, line 1 is not UTF-8 text.", "iconv -f ENCODING -t UTF-8"),
        (gzip.compress(b"bad", mtime=0), "lines.txt is a gzip file, not text.", "gunzip -c"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS", "git lfs pull"),
    ],
)
def test_a_file_of_another_kind_is_reported_with_its_remedy(
    content: bytes, sentence: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(MissingInputError) as caught:
        texts_of(content, tmp_path)
    assert sentence in caught.value.sentence
    assert caught.value.fix is not None
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "not a JSON object"),
        (b"{smile} a sunny day", "not a JSON object"),
        (b'{"txt": "a"}', 'the JSON object has no "text"'),
        (b'{"text": "a", "text": "b"}', 'the key "text" occurs twice'),
        (b'{"text": ' + b"[" * 100_000, "not a JSON object"),
        (b'{"text": 1}', "must be strings"),
        (b'{"text": "a", "pair": 2}', "must be strings"),
        (b'{"text": "half \\ud83d of one"}', "not valid Unicode"),
        (b"bad \xff\xfe bytes", "not UTF-8"),
        (b"a\tb\tc", "has 3 cells"),
        (b"a\tb", "is a pair"),
        (b"x" * (LONGEST_LINE + 1), "more than 16,777,216 characters"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_wrong_line_is_named_after_those_before_it(line: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(b"one\ntwo\n" + line + b"\nlast\n")
    with open_source(file) as source:
        batches = read_texts(source, Path("some.txt"), 32, False)
        assert next(batches) == [Text("one"), Text("two")]
        with pytest.raises(KdqatError, match=f"some.txt, line 3.*{told}"):
            next(batches)


def test_lines_that_have_arrived_are_not_held_back(pipe: tuple[int, int]) -> None:
    read, write = pipe
    batches = read_texts(read, Path("pipe"), 3, None)
    os.write(write, b"one\ntw")
    assert next(batches) == [Text("one")]
    os.write(write, b"o\nthree\nfour\nfive\nsix")
    assert next(batches) == [Text("two"), Text("three"), Text("four")]
    os.close(write)
    assert next(batches) == [Text("five"), Text("six")]
    assert list(batches) == []


def test_a_line_without_an_end_is_not_kept_in_memory(pipe: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "endless"
    file.write_bytes(b"\n" + b"x" * (5 * LONGEST_LINE))
    with open_source(file) as source, pytest.raises(MissingInputError, match="line 2 has more than"):
        list(read_texts(source, Path("endless"), 32, None))


@pytest.mark.parametrize("content", [b"sentence\tlabel\nbad\t1\n", b"text\nbad\n", b"sentence1\tsentence2\na\tb\n"])
def test_a_table_is_not_classified(content: bytes, tmp_path: Path) -> None:
    for name in ("rows.tsv", "rows.csv", "ROWS.CSV"):
        with pytest.raises(ConfigError, match=r"table.*--file takes lines"):
            texts_of(content, tmp_path, name)
    assert texts_of(b"bad\tone\n", tmp_path, "rows.tsv") == [Text("bad", "one")], "without a header"


@pytest.mark.parametrize("content", [b'[{"text": "bad"}, {"text": "good"}]', b'[\n  {"text": "bad"}\n]\n', b" [ {"])
def test_a_json_array_is_not_a_text(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a JSON array, but --file takes one JSON object per line"):
        texts_of(content, tmp_path, "rows.json")
    assert texts_of(b"[sic] bad\n", tmp_path, "rows.txt") == [Text("[sic] bad")]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere cannot be read: No such file"):
        texts_of_missing(tmp_path / "nowhere")
    with open_source(tmp_path) as source, pytest.raises(MissingInputError, match="here cannot be read: Is a directory"):
        list(read_texts(source, Path("here"), 2, None))


def texts_of_missing(file: Path) -> None:
    with open_source(file):
        pass
