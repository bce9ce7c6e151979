"""Starts a training as several processes of this machine, one per GPU, and ends all of them when one ends.

The processes run the command that the user typed, as with torchrun. Each holds one end of a pipe, and this process
holds the other end. So even kill -9 of the command leaves no process behind.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.group import GRACE, LIFELINE, STOPPED, Terminated
from kdqat_cli.parallel.executor import visible_gpus
from kdqat_cli.parallel.runner import STOPPED as INTERRUPTED
from kdqat_cli.processors import processors

_TICK = 0.1


def launch(devices: int) -> int:
    """Runs the command of this process as a group of processes.

    Args:
        devices: number of processes, at least 2.

    Returns:
        The exit code of the group: 0, or the exit code of the first process that failed.

    Raises:
        ConfigError: there are GPUs, but not enough.
        KdqatError: a signal ended one of the processes.
    """
    gpus = len(visible_gpus())
    if 0 < gpus < devices:
        raise ConfigError(f"--devices {devices} is more than the {gpus} visible GPUs.", f"--devices {gpus}")
    held, lifeline = os.pipe()
    port = _free_port()
    group = [_start(rank, devices, port, held) for rank in range(devices)]
    os.close(held)
    codes: list[int | None] = [None]
    try:
        while None in codes and not any(codes):
            time.sleep(_TICK)
            codes = [process.poll() for process in group]
    except KeyboardInterrupt as interrupt:
        group[0].send_signal(signal.SIGINT)  # the first process tells the user how to continue the training
        _wait(group[0])
        return STOPPED if isinstance(interrupt, Terminated) else INTERRUPTED
    finally:
        os.close(lifeline)
        for process in group:
            _wait(process)
    code = next(filter(None, codes), 0)
    if code < 0:
        raise _ended(codes.index(code) + 1, devices, -code)
    return code


def _ended(number: int, devices: int, by: int) -> KdqatError:
    """The error about a process that a signal ended; its exit code is a shell's, 128 + the signal."""
    error = KdqatError(
        f"Process {number} of {devices} was ended by {signal.Signals(by).name}, for example because memory ran out.",
        "the same command, which continues from the last evaluation",
    )
    error.exit_code = 128 + by
    return error


def _start(rank: int, devices: int, port: int, lifeline: int) -> "subprocess.Popen[bytes]":
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices}
    place |= {"MASTER_PORT": port, LIFELINE: lifeline, "OMP_NUM_THREADS": _threads(devices)}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()},
        pass_fds=[lifeline],
        start_new_session=True,  # Ctrl-C in the terminal goes only to this process
    )


def _threads(devices: int) -> int:
    """The share of one process of the threads that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(given) if given.isdigit() else processors()) // devices)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
