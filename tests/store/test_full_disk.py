"""A full disk: one sentence is printed, old results do not change, and the same command continues."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from kdqat_cli.errors import MissingInputError
from kdqat_cli.store.folder import ABOUT, MODEL, output_folder
from kdqat_cli.store.writing import file_errors, write_json
from tests.commands import environment, run

TRAIN = ["kdqat", "finetune-teacher", "--task", "tiny", "--epochs", "2", "--batch-size", "8", "--eval-every", "10"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits files to 4 KB, which for a writer is almost the same as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_text(path: Path) -> None:
    path.write_text("x" * 10_000)


def write_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(10_000)}, path)


def write_pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(10_000)}, path)


def write_tokenizer(path: Path) -> None:
    Tokenizer(models.WordLevel({f"word {index}": index for index in range(1000)}, "word 0")).save(str(path))


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("write", [write_text, write_tensors, write_pickle, write_tokenizer])
def test_the_error_of_every_writer_is_one_sentence(tmp_path: Path, write: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    with output_folder(out) as work:
        (work.scratch / MODEL).mkdir()
        (work.scratch / MODEL / ABOUT).write_text("old")
    with (
        pytest.raises(MissingInputError, match=f"The folder {out} cannot be written: ") as caught,
        output_folder(out) as work,
    ):
        write(work.scratch / "new")
    assert caught.value.fix is not None
    assert f"df -h {out}" in caught.value.fix
    assert [path.name for path in out.iterdir()] == [MODEL]
    assert (out / MODEL / ABOUT).read_text() == "old"


@pytest.mark.usefixtures("small_files")
def test_a_record_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"score": 1})
    with pytest.raises(MissingInputError, match="cannot be written: a file is too large"):
        write_json(tmp_path / "metrics.json", {"score": 1, "rows": list(range(10_000))})
    assert os.listdir(tmp_path) == ["metrics.json"]
    assert len((tmp_path / "metrics.json").read_text()) < 100


def test_a_cpp_stream_error_without_a_reason_is_a_full_disk(tmp_path: Path) -> None:
    """torch.save raises it if not even the end of its archive fits; this is rare on a small disk."""
    with pytest.raises(MissingInputError, match="no space left"), file_errors(tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")


def test_other_errors_are_not_changed(tmp_path: Path) -> None:
    for error in (
        ValueError("no space left"),
        FileNotFoundError(2, "No such file"),
        RuntimeError("os error 5"),
        PermissionError(1, "no"),
    ):
        with pytest.raises(type(error)) as caught, file_errors(tmp_path):
            raise error
        assert caught.value is error


def test_a_training_continues_after_a_full_disk_when_there_is_room(
    tmp_path: Path, tiny_encoder: Path, tiny_task: Path
) -> None:
    shutil.copytree(tiny_task, tmp_path / "tasks")
    command = [*TRAIN, "--encoder", str(tiny_encoder)]
    limited = subprocess.run(
        ["sh", "-c", f"ulimit -f 100; exec {' '.join(command)}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(limited.stderr.split())
    assert limited.returncode == 3, said
    assert (
        "The folder runs/tiny/teacher cannot be written: a file is too large. Existing files have not changed." in said
    )
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "runs/tiny/teacher").iterdir()] == [".kdqat-resume"]
    run(tmp_path, *command)
    names = {path.name for path in (tmp_path / "runs/tiny/teacher").iterdir()}
    assert names == {"model", "history.csv", "run.json"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 2 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the permission to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_training_on_a_small_disk_continues_on_a_larger_one(
    small_disk: Path, tmp_path: Path, tiny_encoder: Path, tiny_task: Path
) -> None:
    """The disk grows step by step, so that writes fail at one place after another. The results do not change."""
    shutil.copytree(tiny_task, tmp_path / "tasks")
    command = [*TRAIN, "--encoder", str(tiny_encoder), "--json"]
    run(tmp_path, *command)
    failures = 0
    for kilobytes in range(1, 2000, 150):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        done = subprocess.run(
            [*command, "--out", str(small_disk / "out")],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        failures += 1
        assert done.returncode == 3, done.stderr
        assert "cannot be written: no space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert {path.name for path in small_disk.glob("out/*")} <= {".kdqat-resume"}
    assert done.returncode == 0
    assert failures >= 3
    for name in ("model/model.safetensors", "model/kdqat.json", "history.csv"):
        assert (small_disk / "out" / name).read_bytes() == (tmp_path / "runs/tiny/teacher" / name).read_bytes()
