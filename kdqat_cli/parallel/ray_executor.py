"""Runs jobs as tasks of a Ray cluster, whose machines share the project's folder and have kdqat.

Each task starts the same runner as the local executor, so that it stops with its coordinator, too: Ray ends the tasks
of a driver that is gone, and with a task ends its runner's standard input.
"""

import os
import time
from pathlib import Path
from typing import Any

from kdqat_cli.errors import MissingInputError
from kdqat_cli.parallel.executor import Job, start_runner
from kdqat_cli.parallel.runner import STOPPED

_LOST = 1
_TICK = 0.1


class RayExecutor:
    """Tasks of a Ray cluster; each has a GPU, where there are any, and its share of the processors."""

    def __init__(self, address: str, slots: int | None) -> None:
        """Joins the cluster.

        Args:
            address: as `ray.init` takes it: HOST:PORT, ray://HOST:PORT, or `auto` for the one of this machine.
            slots: jobs at once; None: as many as there are GPUs, else one.

        Raises:
            MissingInputError: Ray is not installed, or there is no such cluster.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingInputError("Ray is not installed.", "pip install 'kdqat[ray]'") from error
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except ConnectionError as error:
            raise MissingInputError(f"There is no Ray cluster at {address}.", "ray start --head") from error
        self._ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(machine.get("GPU", 0) for machine in machines)
        cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU")]
        self.slots = slots or int(gpus) or 1
        self._task = ray.remote(_run).options(
            num_gpus=min(1, gpus / self.slots),
            num_cpus=max(1, min([sum(cores) // self.slots, *cores])),  # so that each fits on any machine
            scheduling_strategy="SPREAD",
            # A lost task is not started again by itself: what it ran may not have ended yet.
            max_retries=0,
        )
        self._running: dict[str, tuple[Any, Job]] = {}

    def start(self, job: Job) -> None:
        """Hands a job to the cluster."""
        self._running[job.name] = self._task.remote(job), job

    def finished(self) -> dict[str, int]:
        """The jobs that ended since the last call."""
        names = {reference: name for name, (reference, _) in self._running.items()}
        done, _ = self._ray.wait(list(names), num_returns=len(names), timeout=0) if names else ([], [])
        return {names[reference]: self._code(*self._running.pop(names[reference])) for reference in done}

    def stop(self, name: str) -> None:
        """Interrupts a job, or takes it off the queue."""
        self._ray.cancel(self._running[name][0], force=False)

    def _code(self, reference: Any, job: Job) -> int:
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return STOPPED
        except self._ray.exceptions.RayError as error:
            with Path(job.log).open("a", encoding="utf-8") as log:
                log.write(f"Ray lost this task: {error}\n")
            return _LOST


def _run(job: Job) -> int:
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **job.environment}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # Ray has chosen this task's GPU
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    process = start_runner(job, environment)
    try:
        while process.poll() is None:  # not wait(): Ray's cancellation does not interrupt a system call
            time.sleep(_TICK)
        return process.returncode
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
