"""Files that are not regular text files: every reader reports them at once, in one sentence with the fix."""

import gzip
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.files import is_there, lines, names_in, open_file, read_bytes, text_of
from kdqat_cli.params import load_params, load_recipe, read_recipe
from kdqat_cli.tasks.registry import load_task, user_task_names
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.yaml12 import LARGEST, read_yaml
from tests.tasks.test_data import mood

NOBODY = 65534
BODY = "sentence\tmood\n영화가 sad\tsad\n"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Runs without root's rights, because permissions do not apply to root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that everybody may search; its paths are relative, so that parent folders do not matter."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o777)
    return tmp_path


def data(file: str) -> None:
    load_split(mood(files={"train": file, "dev": file}), "dev", Path())


READERS: dict[str, Callable[[str], object]] = {
    "a.tsv": data,
    "a.csv": data,
    "a.json": data,
    "a.jsonl": data,
    "task.yaml": load_task,
    "recipe.yaml": load_recipe,
    "copied.yaml": read_recipe,
    "params.yaml": lambda file: load_params(Path(file)),
}
readers = pytest.mark.parametrize("file", READERS)


def refusal(file: str) -> KdqatError:
    with pytest.raises(KdqatError) as caught:
        READERS[file](file)
    assert "\n" not in caught.value.sentence
    assert file in caught.value.sentence
    return caught.value


def put_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


@readers
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkdir, "a folder"),
        (os.mkfifo, "a named pipe (FIFO)"),
        (put_socket, "a socket"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
    ],
)
def test_a_file_that_is_not_regular_is_refused_at_once(file: str, make: Callable[[str], None], kind: str) -> None:
    make(file)
    error = refusal(file)
    assert error.sentence == f"{file} is {kind}, not a file of text."
    assert error.exit_code == 3


@readers
def test_a_pointer_of_git_lfs_is_refused(file: str) -> None:
    Path(file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4711\n", encoding="utf-8")
    error = refusal(file)
    assert error.sentence == f"{file} is a pointer of Git LFS, not the file itself."
    assert error.fix == "git lfs pull"


@readers
def test_a_file_without_permission_is_refused(file: str) -> None:
    Path(file).write_text(BODY, encoding="utf-8")
    Path(file).chmod(0)
    with unprivileged():
        error = refusal(file)
    assert error.sentence == f"{file} cannot be read: Permission denied."
    assert error.fix == f"ls -ld {file}, then chmod or chown"


@readers
@pytest.mark.parametrize("target", ["gone", "itself"])
def test_a_broken_link_is_refused(file: str, target: str) -> None:
    """Also for params.yaml, which may be missing."""
    os.symlink(file if target == "itself" else target, file)
    assert "no file" in refusal(file).sentence or "symbolic links" in refusal(file).sentence


@pytest.mark.parametrize("closed", ["closed/a.tsv", "closed/task.yaml"])
def test_a_folder_that_may_not_be_searched_is_reported(closed: str) -> None:
    """It is unknown whether the file exists, so the next source must not be read instead."""
    Path("closed").mkdir()
    Path(closed).write_text(BODY, encoding="utf-8")
    Path("closed").chmod(0)
    with unprivileged(), pytest.raises(MissingInputError, match=f"{closed} cannot be read: Permission denied"):
        data(closed) if closed.endswith("tsv") else load_task(closed)


def test_a_folder_of_tasks_that_may_not_be_read_is_reported() -> None:
    assert user_task_names() == names_in(Path("tasks")) == []
    Path("tasks").mkdir()
    Path("tasks").chmod(0)
    with unprivileged(), pytest.raises(MissingInputError, match=r"^tasks cannot be read: Permission denied"):
        user_task_names()


def test_a_link_to_a_file_is_read_like_the_file() -> None:
    Path("real.tsv").write_text(BODY, encoding="utf-8")
    os.symlink("real.tsv", "a.tsv")
    assert open_file(Path("a.tsv")).read() == BODY.encode()
    data("a.tsv")


def test_an_impossible_name_of_a_file() -> None:
    assert not is_there(Path("a\0.tsv"))
    with pytest.raises(MissingInputError, match="There is no file"):
        load_task("a\0.yaml")
    with pytest.raises(MissingInputError, match="File name too long"):
        load_task("x" * 300 + ".yaml")


@pytest.mark.parametrize("file", ["a.tsv", "a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_unicode_encoding_is_named_with_its_conversion(file: str, encoding: str) -> None:
    Path(file).write_text(BODY, encoding=encoding)
    error = refusal(file)
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    assert error.sentence == f"{file} is {name} text, not UTF-8."
    assert error.fix == f"iconv -f {name} -t UTF-8 {file} > NEW"


@readers
def test_an_encoding_that_the_bytes_do_not_show(file: str) -> None:
    Path(file).write_bytes(b"\n" + "영화".encode("cp949"))
    error = refusal(file)
    assert error.sentence == f"{file}, line 2 is not UTF-8 text."
    assert error.fix is not None
    assert error.fix.startswith(f"iconv -f ENCODING -t UTF-8 {file} > NEW")
    assert isinstance(error, ConfigError) == file.endswith(".yaml")


@readers
def test_a_compressed_file_is_named(file: str) -> None:
    Path(file).write_bytes(gzip.compress(BODY.encode()))
    assert refusal(file).sentence == f"{file} is a gzip file, not text."
    assert refusal(file).fix == f"gunzip -c {file} > NEW"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as workbook:
        workbook.writestr("sheet.xml", os.urandom(100))
    assert refusal(file).sentence == f"{file} is a ZIP archive or an Excel workbook, not text."


@pytest.mark.parametrize("file", [file for file in READERS if file.endswith(".yaml")])
def test_a_large_yaml_file_is_refused_without_reading(file: str) -> None:
    with open(file, "wb") as sparse:
        sparse.truncate(2**40)
    assert (
        refusal(file).sentence == f"{file} is too large: it has {2**40:,} bytes, but at most {LARGEST:,} are allowed."
    )


def test_a_yaml_file_of_the_largest_size_is_read() -> None:
    Path("a.yaml").write_text("a: " + "x" * (LARGEST - 3), encoding="utf-8")
    assert len(read_yaml(Path("a.yaml"))["a"]) == LARGEST - 3
    Path("a.yaml").write_text("a: " + "x" * (LARGEST - 2), encoding="utf-8")
    with pytest.raises(MissingInputError, match="is too large: it has 262,145 bytes"):
        read_yaml(Path("a.yaml"))


def test_a_large_json_file_is_refused_without_reading() -> None:
    with open("a.json", "wb") as sparse:
        sparse.truncate(2**40)
    assert "a.json is too large" in refusal("a.json").sentence


def test_a_file_that_reports_size_0_is_limited_too() -> None:
    """For example the files of /proc."""
    assert len(read_bytes(Path("/proc/self/status"), 100_000)) > 100
    with pytest.raises(MissingInputError, match="too large"):
        read_bytes(Path("/proc/self/status"), 100)


def test_a_file_that_fails_while_it_is_read() -> None:
    """As on a faulty disk: the first page of a process cannot be read."""
    with pytest.raises(MissingInputError, match="/proc/self/mem cannot be read: Input/output error"):
        next(lines(Path("/proc/self/mem"), 100))
    with pytest.raises(MissingInputError, match="/proc/self/mem cannot be read: Input/output error"):
        read_bytes(Path("/proc/self/mem"), 100)


def test_lines_are_split_only_at_lf() -> None:
    text = "\ufeffa\rb\u2028c\u0085\x0b\x0c\r\n\n\0last"
    Path("a").write_text(text, encoding="utf-8", newline="")
    expected = ["a\rb\u2028c\u0085\x0b\x0c\r\n", "\n", "\0last"]
    assert list(lines(Path("a"), 100)) == expected
    assert text_of(Path("a"), Path("a").read_bytes()) == "".join(expected)


def test_the_length_of_a_line_is_limited() -> None:
    Path("a").write_bytes(b"12345\n1234\n")
    assert list(lines(Path("a"), 6)) == ["12345\n", "1234\n"]
    with pytest.raises(MissingInputError, match="a, line 1 has more than 5 bytes"):
        list(lines(Path("a"), 5))
