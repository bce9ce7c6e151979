"""The output folder: results are complete or absent, only kdqat's files are replaced, checkpoints fit the settings."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.record import Record, read_record
from kdqat_cli.store.digest import digest_of
from kdqat_cli.store.folder import (
    ABOUT,
    HISTORY,
    MODEL,
    MOST_OTHERS,
    RUN,
    output_folder,
    refuse_inputs,
    refuse_inside,
)
from kdqat_cli.store.lock import LOCK


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "out"


def run_text(text: str) -> str:
    return json.dumps({"seconds": 1, "device": text})


def fill(out: Path, text: str) -> None:
    with output_folder(out) as work:
        (work.scratch / MODEL).mkdir()
        (work.scratch / MODEL / ABOUT).write_text(text)
        (work.scratch / RUN).write_text(run_text(text))


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _write_and_raise(path: Path, error: type[BaseException]) -> None:
    path.write_text("new")
    raise error


def test_results_appear_when_the_block_ends(out: Path) -> None:
    with output_folder(out) as work:
        (work.scratch / MODEL).mkdir()
        (work.scratch / MODEL / ABOUT).write_text("new")
        assert not (out / MODEL).exists()
        assert (out / LOCK).exists()
    assert entries(out) == [MODEL, f"{MODEL}/{ABOUT}"]


def test_new_results_replace_old_ones(out: Path) -> None:
    fill(out, "old")
    (out / MODEL / "leftover").touch()
    (out / "notes.txt").write_text("mine")
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/{ABOUT}", "notes.txt", RUN]
    assert (out / MODEL / ABOUT).read_text() == "new"
    assert (out / RUN).read_text() == run_text("new")


def test_links_are_replaced_not_followed(out: Path, tmp_path: Path) -> None:
    """DVC may replace results by links to its cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ABOUT).write_text("cached")
    (cache / RUN).write_text(run_text("cached"))
    out.mkdir(parents=True)
    (out / MODEL).symlink_to(cache)
    (out / RUN).symlink_to(cache / RUN)
    (out / HISTORY).symlink_to("nowhere")
    fill(out, "new")
    assert not (out / MODEL).is_symlink()
    assert (out / MODEL / ABOUT).read_text() == "new"
    assert not (out / HISTORY).is_symlink()
    assert (cache / ABOUT).read_text() == "cached"
    assert (cache / RUN).read_text() == run_text("cached")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_published_when_the_block_raises(out: Path, error: type[BaseException]) -> None:
    fill(out, "old")
    with pytest.raises(error), output_folder(out) as work:
        _write_and_raise(work.scratch / RUN, error)
    assert entries(out) == [MODEL, f"{MODEL}/{ABOUT}", RUN], "neither lock nor scratch files stay"
    assert (out / RUN).read_text() == run_text("old")


def test_files_of_a_killed_run_are_not_published(out: Path) -> None:
    (out / ".kdqat-scratch").mkdir(parents=True)
    (out / ".kdqat-scratch" / "half").touch()
    fill(out, "new")
    assert entries(out) == [MODEL, f"{MODEL}/{ABOUT}", RUN]


@pytest.mark.parametrize("at", range(6))
def test_a_power_cut_leaves_no_old_result_beside_a_new_one(out: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power is cut after each renaming in turn: run.json, model and history go, then model and run.json come."""
    fill(out, "old")
    (out / HISTORY).write_text("step,score")
    rename, renamed = Path.rename, 0

    def cut(path: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed > at:
            os._exit(9)
        return rename(path, target)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", cut)
        fill(out, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (9 if at < 5 else 0)
    visible = {path.name: path for path in out.iterdir() if not path.name.startswith(".")}
    text = "old" if at < 3 else "new"
    assert MODEL not in visible or (visible[MODEL] / ABOUT).read_text() == text
    assert RUN not in visible or visible[RUN].read_text() == run_text(text)
    assert set(visible) == [{MODEL, HISTORY, RUN}, {MODEL, HISTORY}, {HISTORY}, set(), {MODEL}, {MODEL, RUN}][at]
    fill(out, "newer")
    assert entries(out) == [MODEL, f"{MODEL}/{ABOUT}", RUN]
    assert (out / RUN).read_text() == run_text("newer")
    assert (out / MODEL / ABOUT).read_text() == "newer"


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    sentence = f"{tmp_path / place} cannot be read or written: a file is where a folder should be"
    with pytest.raises(MissingInputError, match=sentence), output_folder(tmp_path / place):
        pass


def test_files_have_the_permissions_of_the_umask(out: Path) -> None:
    before = os.umask(0o027)
    try:
        with output_folder(out) as work:
            (work.scratch / MODEL).mkdir()
            (work.scratch / MODEL / ABOUT).touch(0o600)
    finally:
        os.umask(before)
    assert (out / MODEL / ABOUT).stat().st_mode & 0o777 == 0o640


FOREIGN = {
    "a model folder without a record": ("model/thesis.tex", "years of work"),
    "a file named model": ("model", "a drawing"),
    "another history": ("history.csv", "date,event"),
    "another run.json": ("run.json", '{"when": "yesterday"}'),
    "a run.json that is not JSON": ("run.json", "{"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs_are_refused_and_stay(out: Path, name: str) -> None:
    place, text = FOREIGN[name]
    (out / place).parent.mkdir(parents=True)
    (out / place).write_text(text)
    sentence = f"{out / place.split('/')[0]} would be replaced, but kdqat did not write it"
    with pytest.raises(ConfigError, match=sentence) as caught, output_folder(out, force=True):
        raise AssertionError("nothing is computed")
    assert caught.value.fix == "--out with another folder"
    assert (out / place).read_text() == text
    assert [path.name for path in out.iterdir()] == [place.split("/")[0]], "neither lock nor scratch files"


@pytest.mark.parametrize("name", [".scratch", ".old", ".resume", ".lock"])
def test_hidden_folders_of_other_programs_stay(out: Path, name: str) -> None:
    (out / name).mkdir(parents=True)
    (out / name / "mine").write_text("mine")
    fill(out, "new")
    assert (out / name / "mine").read_text() == "mine"


def finish(out: Path, about: dict[str, Any], force: bool = False) -> None:
    with output_folder(out, force) as work:
        work.refuse_other(read_record(about, "the new record"))
        (work.scratch / MODEL).mkdir()
        (work.scratch / MODEL / ABOUT).write_text(json.dumps(about))


OLD: dict[str, Any] = {
    "kind": "teacher",
    "task": "rte",
    "settings": {"epochs": 1.0, "layers": [1, 2]},
    "sources": {"teacher": "a"},
    "versions": {"t": "1"},
}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"settings": {"epochs": 2.0, "layers": [1, 2]}}, "settings.epochs is 1.0 there, now 2.0"),
        ({"settings": {"epochs": 1.0, "layers": [1, 3]}}, r"settings.layers is \[1, 2\] there, now \[1, 3\]"),
        ({"sources": {"teacher": "b"}}, "sources.teacher is 'a' there, now 'b'"),
        ({"task": "cola"}, "task is 'rte' there, now 'cola'"),
    ],
)
def test_a_result_of_other_settings_is_replaced_only_with_force(
    out: Path, changes: dict[str, object], difference: str
) -> None:
    finish(out, OLD)
    with pytest.raises(ConfigError, match=f"{out} has a result of other settings: {difference}") as caught:
        finish(out, OLD | changes)
    assert "--force" in (caught.value.fix or "")
    assert json.loads((out / MODEL / ABOUT).read_text()) == OLD
    finish(out, OLD | changes, force=True)
    assert json.loads((out / MODEL / ABOUT).read_text()) == OLD | changes


@pytest.mark.parametrize("changes", [{}, {"versions": {"t": "2"}}, {"inputs": {"names": ["input_ids"]}}])
def test_a_result_of_equal_settings_is_replaced(out: Path, changes: dict[str, object]) -> None:
    finish(out, OLD)
    finish(out, OLD | changes)
    assert json.loads((out / MODEL / ABOUT).read_text()) == OLD | changes


@pytest.mark.parametrize("name", [ABOUT, FILE_NAME])
def test_a_result_with_a_damaged_record_is_replaced_only_with_force(out: Path, name: str) -> None:
    (out / MODEL).mkdir(parents=True)
    (out / MODEL / name).write_text("{")
    with pytest.raises(ConfigError, match="has a result with a record that cannot be read"):
        finish(out, OLD)
    assert (out / MODEL / name).read_text() == "{"
    finish(out, OLD, force=True)


TRAININGS = {digest_of(Record(task=task).to_json() | {"devices": 1})[:16]: task for task in "abcdefgh"}
"""Folder of checkpoints → task of the training."""


def interrupt(out: Path, task: str, force: bool = False, name: str = "checkpoint") -> None:
    """Runs a training that is interrupted after its first checkpoint."""
    with pytest.raises(KeyboardInterrupt), output_folder(out, force) as work:
        _write_and_raise(work.resume_folder(Record(task=task)) / name, KeyboardInterrupt)


def kept(out: Path) -> str:
    """The tasks whose trainings have a checkpoint."""
    return "".join(sorted(TRAININGS[path.parent.name] for path in (out / ".kdqat-resume").glob("*/checkpoint")))


def test_a_training_continues_from_its_own_checkpoints_only(out: Path) -> None:
    interrupt(out, "a")
    with output_folder(out) as work:
        other = work.resume_folder(Record(task="b"))
        assert not any(other.iterdir())
    assert kept(out) == "a", "those of other settings stay"
    with output_folder(out) as work:
        assert (work.resume_folder(Record(task="a")) / "checkpoint").exists()
    assert entries(out) == [], "removed when the results are complete"


def test_checkpoints_of_other_settings_do_not_accumulate(out: Path) -> None:
    for task in "abc"[:MOST_OTHERS]:
        interrupt(out, task)
    sentence = f"{out} has checkpoints of {MOST_OTHERS} unfinished trainings of other settings"
    with output_folder(out) as work, pytest.raises(ConfigError, match=sentence) as caught:
        work.resume_folder(Record(task="e"))
    assert f"rm -r {out / '.kdqat-resume'}" in (caught.value.fix or "")
    assert kept(out) == "abc"
    interrupt(out, "a")
    assert kept(out) == "abc", "a training always continues from its own checkpoints"
    interrupt(out, "e", force=True)
    assert kept(out) == "e"


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_command_leaves_no_new_folder(there: bool, tmp_path: Path) -> None:
    """An empty folder would look like a model without its files."""
    out = tmp_path / "new"
    if there:
        out.mkdir()
    with pytest.raises(ConfigError), output_folder(out):
        raise ConfigError("It is refused.")
    assert out.exists() is there
    assert not there or not entries(out)


def test_an_unfinished_training_without_a_checkpoint_leaves_nothing(out: Path) -> None:
    for task in "abcdefgh":
        interrupt(out, task, name="../../elsewhere")
    assert [TRAININGS[path.name] for path in (out / ".kdqat-resume").iterdir()] == ["h"]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with kdqat's `teacher`, a plain model `plain`, a link `link` to the teacher, and a data folder."""
    for name in ("teacher/model", "plain/sub", "data/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "teacher")
    (tmp_path / "plain/config.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("out", "source"),
    [
        ("teacher", "teacher"),
        ("teacher", "teacher/model"),
        ("teacher/model", "teacher"),
        ("teacher/model/new", "teacher/model"),
        ("teacher/new", "teacher"),
        ("link", "teacher"),
        ("teacher", "link/model"),
        ("plain/sub/../../teacher", "teacher"),
        ("plain", "plain"),
        ("plain/sub/new", "plain"),
        ("plain", "plain/config.json"),
    ],
)
def test_an_output_that_is_an_input_is_refused(models: Path, out: str, source: str) -> None:
    for place, given in ((out, source), (str(models / out), source), (out, str(models / source))):
        with pytest.raises(ConfigError, match=r"is the teacher|would write over the teacher"):
            refuse_inputs(Path(place), {"teacher": given})


def test_an_output_that_contains_data_is_refused_but_not_one_beside_it(models: Path) -> None:
    for out, folder in (("data", "data"), ("data", "data/model"), (".", "."), ("link", "teacher/model")):
        with pytest.raises(ConfigError, match="would write over the folder"):
            refuse_inputs(Path(out), {}, (None, Path(folder)))
    for out in ("runs/new", "data/new", "."):
        refuse_inputs(Path(out), {"teacher": "teacher", "encoder": "owner/name"}, (Path("data"), None))
    refuse_inputs(Path("runs/new"), {"teacher": "teacher"}, (Path(),))
    refuse_inside(Path("teacher.json"), {"model": "teacher"})
    with pytest.raises(ConfigError, match="is inside it"):
        refuse_inside(Path("link/model/config.json"), {"model": "teacher"})
