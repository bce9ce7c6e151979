"""Runs the commands of one job, and stops them when whoever asked for them is gone.

A script of its own, on the standard library alone, so that it starts at once. Standard input brings the job as one
line of JSON and then stays open: its end means "stop", whether it was closed on purpose or because the process at the
other end died, be it by kill -9. So no training is left behind that nobody waits for.

Exit code: 0, or that of the first command that failed (128 + signal, as shells have it), or 130 when stopped.
"""

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


def main() -> int:
    """Runs the job that stands on standard input."""
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
                    _stop(process)
                    return STOPPED
            if process.returncode:
                return process.returncode if process.returncode > 0 else 128 - process.returncode
    return 0


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # SIGINT, not SIGTERM: Python's commands then leave in order and release the folders that they have locked.
    _signal(process.pid, signal.SIGINT)
    end = time.monotonic() + _GRACE
    while time.monotonic() < end:
        process.poll()  # reaps it: a zombie would count as a member of its group
        if not _signal(process.pid, 0):
            return
        time.sleep(_TICK)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> bool:
    """Sends a signal to a process group; False: nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
