"""The files that `kdqat clean` lists and removes, and those that it keeps."""

import json
import os
import time
from pathlib import Path

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.stages.clean import clean, leftovers
from kdqat_cli.store.lock import LOCK, locked
from tests.commands import run

STUDENT = Path("runs/tiny/student/map-1")
ASIDE = Path("metrics/tiny/.kdqat-4194304-deadbeef")  # above the largest process id of Linux
LEFT = {
    "checkpoints": [STUDENT / ".kdqat-resume/0123456789abcdef/model.bin"],
    "scratch": [STUDENT / ".kdqat-scratch/model/a.bin", STUDENT / ".kdqat-old/model/b.bin"],
    "partial": [ASIDE],
}
KEPT = [
    STUDENT / "model/kdqat.json",
    STUDENT / "model/.kdqat-scratch/c.bin",
    STUDENT / "history.csv",
    STUDENT / "run.json",
    STUDENT / ".kdqat-resume/notes/mine.txt",
    Path("metrics/tiny/.kdqat-deadbeef"),
    Path("elsewhere/.kdqat-scratch/d.bin"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in [*KEPT, *(path for paths in LEFT.values() for path in paths)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    os.utime(ASIDE, (time.time() - 10_000,) * 2)
    Path("runs/link").symlink_to("../elsewhere")
    return tmp_path


def there(paths: list[Path]) -> list[bool]:
    return [path.exists() for path in paths]


def test_only_leftovers_are_found(folder: Path) -> None:
    found = leftovers([])
    assert {(one.what, str(one.path), one.bytes) for one in found} == {
        ("checkpoints", str(STUDENT / ".kdqat-resume/0123456789abcdef"), 100),
        ("scratch", str(STUDENT / ".kdqat-scratch"), 100),
        ("scratch", str(STUDENT / ".kdqat-old"), 100),
        ("partial", str(ASIDE), 100),
    }
    assert clean(found, lambda text: None) == found
    assert not any(path.exists() for paths in LEFT.values() for path in paths)
    assert all(there(KEPT))
    assert leftovers([]) == []


def test_only_leftovers_of_one_kind(folder: Path) -> None:
    clean(leftovers([], ("scratch",)), lambda text: None)
    assert there(LEFT["scratch"]) == [False, False]
    assert all(there([*LEFT["checkpoints"], *LEFT["partial"], *KEPT]))


def test_files_in_use_by_a_command_stay(folder: Path) -> None:
    lock = STUDENT / LOCK
    lock.write_text(json.dumps({"pid": 1, "host": "another machine"}), encoding="utf-8")
    remarks: list[str] = []
    removed = clean(leftovers([]), remarks.append)
    assert [one.what for one in removed] == ["partial"]
    assert len(remarks) == 3
    assert all("is in use by process 1 on another machine" in remark for remark in remarks)
    assert all(there([*LEFT["checkpoints"], *LEFT["scratch"], *KEPT]))
    lock.unlink()
    with locked(STUDENT):
        assert [one.what for one in leftovers([])].count("scratch") == 2


def test_a_new_or_open_partial_file_stays(folder: Path) -> None:
    os.utime(ASIDE)
    (ASIDE.parent / f".kdqat-{os.getpid()}-deadbeef").touch()
    assert not leftovers([], ("partial",))


def test_without_yes_nothing_is_removed(folder: Path) -> None:
    told = json.loads(run(folder, "kdqat", "clean", "--json").stdout)
    assert [row["what"] for row in told].count("scratch") == 2
    said = run(folder, "kdqat", "clean").stderr
    assert "4 leftovers, 0.0 MB; nothing was removed. `kdqat clean --yes` removes them." in " ".join(said.split())
    assert all(path.exists() for paths in LEFT.values() for path in paths)
    run(folder, "kdqat", "clean", "--yes", "--only", "checkpoints")
    assert not LEFT["checkpoints"][0].exists()
    assert all(there([*LEFT["scratch"], *KEPT]))
    said = run(folder, "kdqat", "clean", "--only", "results", code=2).stderr
    assert "there is no kind 'results'; the kinds are checkpoints, scratch, partial" in " ".join(said.split())


def test_a_missing_folder(folder: Path) -> None:
    with pytest.raises(MissingInputError, match="There is no folder nowhere"):
        leftovers([Path("nowhere")])
