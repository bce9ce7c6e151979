"""Runs the commands of one job, and stops them when the process that started it is gone.

This is a separate script that uses only the standard library, so that it starts quickly. It reads the job as one line
of JSON from standard input, which then stays open. The end of standard input means "stop": the other process closed it,
or died, even by kill -9. So no training is left behind.

Exit code: 0, or the code of the first command that failed (128 + signal, as in shells), or 130 if it was stopped.
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
    """Runs the job from standard input."""
    if sys.platform == "linux":  # children of a killed shell become children of this process, which can wait for them
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    job = json.loads(sys.stdin.readline())
    with open(job["log"], "w", encoding="utf-8") as log:
        for shown, command in zip(job["shown"], job["commands"], strict=True):
            log.write(f"> {shown}\n")
            log.flush()
            # In its own process group, so that it can be stopped together with the processes that it started.
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
    """Stops a process group and waits for its end, because the same commands may be started again."""
    # SIGINT and not SIGTERM, so that commands in Python clean up and release their locked folders. Twice, because
    # Python loses a KeyboardInterrupt that is raised while it closes an unreferenced file.
    for number, patience in ((signal.SIGINT, _GRACE / 2), (signal.SIGINT, _GRACE / 2), (signal.SIGKILL, float("inf"))):
        _signal(group, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            _reap(group)
            if not _signal(group, 0):
                return
            time.sleep(_TICK)


def _reap(group: int) -> None:
    """Reaps the ended processes of a group, which would otherwise count as members (zombies)."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _signal(group: int, number: int) -> bool:
    """Sends a signal to a process group; False: the group is empty."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
