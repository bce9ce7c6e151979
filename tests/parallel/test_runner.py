"""The runner of one job: after it has stopped the commands, none of their processes is left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from kdqat_cli.parallel import runner
from tests.parallel.projects import wait_for

# The real runner, with a shorter timeout.
HASTY = f"""
import sys
sys.path.insert(0, {str(Path(runner.__file__).parent)!r})
import runner
runner._GRACE = 4.0
sys.exit(runner.main())
"""

# Python loses a KeyboardInterrupt that arrives while a released file is closed: here always the first interrupt.
DEAF_ONCE = """
import os, signal
def miss(number, frame):
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGINT, miss)
"""
DEAF = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
WORK = """
import time
memory = bytearray(10**8)  # it takes time to free it
try:
    with open("pid.new", "w") as file:
        file.write(str(os.getpid()))
    os.replace("pid.new", "pid")
    time.sleep(60)
finally:
    open("in order", "w").close()
"""


def stop(folder: Path, script: str) -> int:
    """Runs the script under a shell, stops it, and returns its process id."""
    (folder / "work.py").write_text(script + WORK, encoding="utf-8")
    job = {
        "shown": ["work"],
        "commands": [["/bin/sh", "-c", f"{sys.executable} work.py && true"]],
        "folder": str(folder),
        "environment": dict(os.environ),
        "log": str(folder / "log"),
    }
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", HASTY], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    wait_for(folder / "pid")
    process.stdin.close()
    assert process.wait() == runner.STOPPED
    return int((folder / "pid").read_text())


def test_a_command_that_missed_the_first_request_gets_another(tmp_path: Path) -> None:
    assert not psutil.pid_exists(stop(tmp_path, DEAF_ONCE))
    assert (tmp_path / "in order").exists()


def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    assert not psutil.pid_exists(stop(tmp_path, DEAF))
    assert not (tmp_path / "in order").exists()
