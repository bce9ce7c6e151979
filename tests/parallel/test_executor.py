"""The share of this machine that a job gets."""

import os
import time
from pathlib import Path

import pytest

from kdqat_cli.parallel.executor import Job, LocalExecutor


@pytest.mark.parametrize(
    ("visible", "jobs", "each"),
    [("0,1,2,3", 2, ["0,2", "1,3"]), ("4,5", 2, ["4", "5"]), ("4,5", 3, ["4", "5", "4"]), ("7,8", 1, ["7,8"])],
)
def test_jobs_share_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, jobs: int, each: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with (tmp_path / "lock").open("w") as lock:
        executor = LocalExecutor(jobs, lock.fileno())
        for number in range(jobs):
            command = ["sh", "-c", f"printf %s $CUDA_VISIBLE_DEVICES > {number}.txt"]
            log = str(tmp_path / f"{number}.log")
            executor.start(Job(str(number), [""], [command], str(tmp_path), dict(os.environ), log))
        ended: dict[str, int] = {}
        while len(ended) < jobs:
            ended |= executor.finished()
            time.sleep(0.02)
    assert set(ended.values()) == {0}
    assert [(tmp_path / f"{number}.txt").read_text(encoding="utf-8") for number in range(jobs)] == each
