"""Where the commands of stages run: processes of this machine, or (ray_executor.py) of a cluster."""

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
        name: the stage.
        shown: the commands as the user wrote them.
        commands: the same with their shell, one after another.
        folder: absolute path of their working folder.
        environment: all of their environment variables.
        log: absolute path of the file that takes their output.
    """

    name: str
    shown: list[str]
    commands: list[list[str]]
    folder: str
    environment: dict[str, str]
    log: str


class Executor(Protocol):
    """Runs jobs, `slots` of them at once."""

    slots: int

    def start(self, job: Job) -> None:
        """Starts a job; never more of them than there are slots."""

    def finished(self) -> dict[str, int]:
        """The jobs that ended since the last call, by name, with their exit codes."""

    def stop(self, name: str) -> None:
        """Asks a running job to stop; `finished` tells when it has."""


class LocalExecutor:
    """Processes of this machine; each slot has its share of the GPUs, where there are any, and of the threads."""

    def __init__(self, slots: int | None, inherited: int) -> None:
        """Finds the GPUs.

        Args:
            slots: jobs at once; None: as many as there are GPUs, else one.
            inherited: a file descriptor that stays open in every job until it has ended.
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
        """Closes the job's standard input, which its runner takes as a request to stop."""
        stdin = self._running[name][0].stdin
        if stdin is not None:
            stdin.close()


def start_runner(job: Job, environment: dict[str, str], *inherited: int) -> "subprocess.Popen[bytes]":
    """Starts a process that runs the job's commands until it ends or its standard input does."""
    process = subprocess.Popen(  # noqa: S603
        _RUNNER,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is for the coordinator alone
        pass_fds=inherited,
    )
    if process.stdin is None:
        raise AssertionError
    process.stdin.write(json.dumps(asdict(job) | {"environment": environment}).encode() + b"\n")
    process.stdin.flush()
    return process


def visible_gpus() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES for one GPU each, without waiting for torch."""
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
