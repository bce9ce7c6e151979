"""DVC projects of a few lines of shell, and functions for their tests."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.commands import environment, run

# Each stage notes its begin and end; a stage that waits for a file shows that others ran at the same time.
NOTE = "echo begin $DVC_STAGE >> journal"
END = "echo end $DVC_STAGE >> journal"

PIPELINE = f"""\
stages:
  first:
    cmd: {NOTE} && echo $(cat in.txt) > first.txt && {END}
    deps: [in.txt]
    params: [first]
    outs: [first.txt]
  middle:
    matrix: {{name: [x, y], number: [1, 2]}}
    cmd: {NOTE} && cat first.txt > ${{item.name}}${{item.number}}.txt && echo ${{middle}} && {END}
    deps: [first.txt]
    params: [middle]
    outs: ["${{item.name}}${{item.number}}.txt"]
  last:
    cmd:
      - {NOTE}
      - cat x1.txt x2.txt y1.txt y2.txt > last.txt
      - {END}
    deps: [x1.txt, x2.txt, y1.txt, y2.txt]
    metrics:
      - last.txt: {{cache: false}}
"""
MIDDLE = ["middle@x-1", "middle@x-2", "middle@y-1", "middle@y-2"]
ALL = ["first", *MIDDLE, "last"]

# A stage that counts in a locked folder. It continues where it was stopped, and notes if another one runs with it.
COUNT = """\
import os, sys, time
from pathlib import Path
import psutil
from kdqat_cli.store.folder import output_folder
from kdqat_cli.store.progress import DevScore, EventWriter
name = sys.argv[1]
tell = EventWriter()
number = int(open(name + ".at").read()) if os.path.exists(name + ".at") else 0
with output_folder(Path(name)):
    pids = open(name + ".pids", "a+")
    pids.seek(0)
    for pid in map(int, pids):
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            open("two at once", "w")
    print(os.getpid(), file=pids, flush=True)
    while number < int(sys.argv[2]):
        number += 1
        open(name + ".at.new", "w").write(str(number))
        os.replace(name + ".at.new", name + ".at")
        tell(number, int(sys.argv[2]), DevScore(number))
        time.sleep(0.05)
        while number == 5 and not os.path.exists("go"):
            time.sleep(0.02)
open(name + ".txt", "w").write(str(number))
"""


def set_params(folder: Path, first: int, middle: int) -> None:
    (folder / "params.yaml").write_text(f"first: {first}\nmiddle: {middle}\n", encoding="utf-8")


def repro(folder: Path, *options: str, code: int = 0, **variables: str) -> dict[str, dict[str, Any]]:
    done = run(folder, "kdqat", "repro", "--json", *options, code=code, **variables)
    return {row["stage"]: row for row in json.loads(done.stdout)}


def states(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["state"] for name, row in rows.items()}


def journal(folder: Path) -> list[str]:
    path = folder / "journal"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def assert_clean(folder: Path) -> None:
    """Asserts that DVC itself has nothing to do and nothing to write."""
    before = (folder / "dvc.lock").read_bytes()
    assert run(folder, "dvc", "repro").stdout.endswith("Data and pipelines are up to date.\n")
    assert (folder / "dvc.lock").read_bytes() == before


def start(folder: Path, *command: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["kdqat", *command],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)
