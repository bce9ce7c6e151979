"""Files are written completely or not at all, and never through a link; a refusal of the system is one sentence."""

import errno
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.store.writing import file_errors, refuse_target, write_bytes, write_json, write_text


def test_json_is_readable_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    write_json(path, {"label": "schön", "score": 81.28})
    assert path.read_text(encoding="utf-8") == '{\n  "label": "schön",\n  "score": 81.28\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 81.28
    assert os.listdir(path.parent) == ["run.json"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path, link: object) -> None:
    """DVC links results to the objects of its cache."""
    (tmp_path / "object").write_text("cached")
    link(tmp_path / "object", tmp_path / "report.md")  # type: ignore[operator]
    write_text(tmp_path / "report.md", "new")
    assert (tmp_path / "object").read_text() == "cached"
    assert (tmp_path / "report.md").read_text() == "new"
    assert not (tmp_path / "report.md").is_symlink()


def test_a_broken_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    write_text(tmp_path / "link", "new")
    assert sorted(os.listdir(tmp_path)) == ["link"]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("place", ["folder", "pipe", "null", "link", "file/out", "pipe/out"])
def test_targets_that_a_file_cannot_replace_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    before = sorted(os.listdir(tmp_path))
    for refuse in (refuse_target, lambda path: write_text(path, "new")):
        with pytest.raises(MissingInputError, match=r"no file can be written there|a file is where a folder should"):
            refuse(tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    def ours(text: str) -> bool:
        return text.startswith("ours")

    path = tmp_path / "file"
    for text in ("mine", "x" * 2**21, "\0"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="kdqat did not write it"):
            write_text(path, "ours too", ours)
        assert path.read_text() == text
    for text in ("", "ours"):
        path.write_text(text)
        write_text(path, "ours too", ours)
        assert path.read_text() == "ours too"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "denied", "a/b"), "a/b cannot be read or written: permission denied."),
        (OSError(errno.EROFS, "ro", b"a/b"), "a/b cannot be read or written: the file system is read-only."),
        (NotADirectoryError(errno.ENOTDIR, "no"), "here cannot be read or written: a file is where a folder should"),
        (RuntimeError("Read-only file system (os error 30)"), "here cannot be read or written: the file system is"),
        (OSError(errno.ENAMETOOLONG, "long", "a/b"), "a/b cannot be read or written: a name is too long."),
        (OSError(errno.ENOSPC, "full", "a/b"), "The folder here cannot be written: no space left."),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), "There is no folder for temporary"),
    ],
)
def test_a_refusal_of_the_system_is_one_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(MissingInputError) as caught, file_errors(Path("here")):
        raise error
    assert caught.value.sentence.startswith(sentence)
    assert caught.value.exit_code == 3
    assert caught.value.fix


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written: for root on a separate read-only file system, for others by its mode."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], check=False).returncode != 0:
        pytest.skip("needs the permission to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_is_reported_before_any_work(read_only: Path) -> None:
    for path in (read_only / "file", read_only / "new" / "file"):
        with pytest.raises(MissingInputError, match=f"{read_only} cannot be read or written: "):
            refuse_target(path)
