"""The limits of control groups, with files of both versions."""

import os
from pathlib import Path

import pytest

from kdqat_cli import processors as module
from kdqat_cli.processors import memory_limit, processor_limit, processors


def groups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    (folder / "own").write_text(own, encoding="utf-8")
    return folder / "fs", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "50000 100000", "a/cpu.max": "400000 100000"}, 0.5),
        ("0::/docker/0123\n", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("5:memory:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_the_share_of_processors(own: str, files: dict[str, str], limit: float | None, tmp_path: Path) -> None:
    assert processor_limit(*groups(tmp_path, own, files)) == limit


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert processor_limit(tmp_path, tmp_path / "none") is None
    assert memory_limit(tmp_path, tmp_path / "none") is None


def test_the_limit_of_memory(tmp_path: Path) -> None:
    assert memory_limit(*groups(tmp_path / "2", "0::/\n", {"memory.max": "1000"})) == 1000
    v1 = {"memory/memory.limit_in_bytes": "9223372036854771712"}
    assert memory_limit(*groups(tmp_path / "1", "3:memory:/\n", v1)) is None


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (1.9, 1), (1e6, None), (None, None)])
def test_the_share_is_rounded_down_but_not_to_0(
    share: float | None, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "processor_limit", lambda: share)
    assert processors() == (count or len(os.sched_getaffinity(0)))
