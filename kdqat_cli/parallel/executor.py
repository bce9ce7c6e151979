"""Runs the commands of stages in processes of this machine; ray_executor.py runs them on a cluster."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Protocol

from kdqat_cli.parallel import runner
from kdqat_cli.processors import processors

_RUNNER = [sys.executable, "-I", "-S", runner.__file__]


@dataclass(frozen=True)
class Job:
    """The commands of one stage.

    Attributes:
        name: name of the stage.
        shown: the commands as the user wrote them.
        commands: the same commands with their shell, in order.
        folder: absolute path of their working folder.
        environment: all environment variables of the commands.
        log: absolute path of the file for their output.
    """

    name: str
    shown: list[str]
    commands: list[list[str]]
    folder: str
    environment: dict[str, str]
    log: str


class Executor(Protocol):
    """Runs jobs, at most `slots` at once."""

    slots: int

    def start(self, job: Job) -> None:
        """Starts a job. The caller never starts more jobs than there are slots."""

    def finished(self) -> dict[str, int]:
        """The jobs that ended since the last call: name → exit code."""

    def stop(self, name: str) -> None:
        """Asks a running job to stop; `finished` reports it when it has stopped."""


class LocalExecutor:
    """Runs jobs on this machine; each slot has its share of the GPUs, if any, and of the threads."""

    def __init__(self, slots: int | None, inherited: int) -> None:
        """Finds the GPUs.

        Args:
            slots: number of jobs at once; None: one per GPU, or one without GPUs.
            inherited: a file descriptor that stays open in every job until the job has ended.
        """
        self._gpus = visible_gpus()
        self.slots = slots or len(self._gpus) or 1
        self._inherited = inherited
        self._free = list(range(self.slots))
        self._running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def start(self, job: Job) -> None:
        """Starts a job in the first free slot."""
        slot = self._free.pop(0)
        environment = {"OMP_NUM_THREADS": str(_threads(self.slots)), **job.environment}
        if self._gpus:
            mine = self._gpus[slot :: self.slots] or [self._gpus[slot % len(self._gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        process = start_runner(job, environment, self._inherited)
        self._running[job.name] = (process, slot)

    def finished(self) -> dict[str, int]:
        """The jobs that ended since the last call."""
        ended = {name: code for name, (process, _) in self._running.items() if (code := process.poll()) is not None}
        for name in ended:
            process, slot = self._running.pop(name)
            if process.stdin is not None:
                process.stdin.close()
            self._free = sorted([*self._free, slot])
        return ended

    def stop(self, name: str) -> None:
        """Closes the standard input of the job, which asks its runner to stop."""
        stdin = self._running[name][0].stdin
        if stdin is not None:
            stdin.close()


def start_runner(job: Job, environment: dict[str, str], *inherited: int) -> "subprocess.Popen[bytes]":
    """Starts a process that runs the commands of a job until they end or its standard input is closed."""
    process = subprocess.Popen(  # noqa: S603
        _RUNNER,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal goes only to the coordinator
        pass_fds=inherited,
    )
    if process.stdin is None:
        raise AssertionError
    process.stdin.write(json.dumps(asdict(job) | {"environment": environment}).encode() + b"\n")
    process.stdin.flush()
    return process


def visible_gpus() -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES for each single GPU, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, check=False)  # noqa: S603
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def _threads(jobs: int) -> int:
    return max(1, processors() // jobs)
