"""Runs the commands of one job, and stops them when whoever asked for them is gone.

A script of its own, on the standard library alone, so that it starts at once. Standard input brings the job as one
line of JSON and then stays open: its end means "stop", whether it was closed on purpose or because the process at the
other end died, be it by kill -9. So no training is left behind that nobody waits for.

Exit code: 0, or that of the first command that failed (128 + signal, as shells have it), or 130 when stopped.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

STOPPED = 130
_TICK = 0.1
_GRACE = 10.0  # seconds between asking and killing
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Runs the job that stands on standard input."""
    if sys.platform == "linux":  # what a killed shell leaves behind becomes this process's, which can wait for its end
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    job = json.loads(sys.stdin.readline())
    with open(job["log"], "w", encoding="utf-8") as log:
        for shown, command in zip(job["shown"], job["commands"], strict=True):
            log.write(f"> {shown}\n")
            log.flush()
            # A process group of its own: it can be stopped whole, with what the command has started itself.
            process = subprocess.Popen(  # noqa: S603
                command,
                cwd=job["folder"],
                env=job["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            while process.poll() is None:
                if select.select([sys.stdin], [], [], _TICK)[0]:
                    _stop(process.pid)
                    return STOPPED
            if process.returncode:
                return process.returncode if process.returncode > 0 else 128 - process.returncode
    return 0


def _stop(group: int) -> None:
    """Returns when nobody is left in the process group: who starts the commands again must not meet the old ones."""
    # SIGINT, not SIGTERM: Python's commands then leave in order and release the folders that they have locked. Twice,
    # for Python loses a KeyboardInterrupt that is raised while it closes a file that was let go of.
    for number, patience in ((signal.SIGINT, _GRACE / 2), (signal.SIGINT, _GRACE / 2), (signal.SIGKILL, float("inf"))):
        _signal(group, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            _reap(group)
            if not _signal(group, 0):
                return
            time.sleep(_TICK)


def _reap(group: int) -> None:
    """Asks how the ended processes of a group ended: as zombies they would count as its members."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _signal(group: int, number: int) -> bool:
    """Sends a signal to a process group; False: nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
