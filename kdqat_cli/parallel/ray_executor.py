"""Runs jobs as tasks of a Ray cluster, whose machines share the project's folder and have kdqat.

Each task starts the same runner as the local executor, so it also stops with its coordinator: when the driver is gone,
Ray ends its tasks, and the end of a task closes the standard input of its runner.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdqat_cli.errors import MissingInputError
from kdqat_cli.parallel.executor import Job, start_runner
from kdqat_cli.parallel.runner import STOPPED

if TYPE_CHECKING:
    from ray import ObjectRef

_LOST = 1
_TICK = 0.1


class RayExecutor:
    """Runs jobs on a Ray cluster; each has a GPU, if there are any, and its share of the CPUs."""

    def __init__(self, address: str, slots: int | None) -> None:
        """Joins the cluster.

        Args:
            address: address for `ray.init`: HOST:PORT, ray://HOST:PORT, or `auto` for the cluster of this machine.
            slots: number of jobs at once; None: one per GPU, or one without GPUs.

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
            # Ray must not start a lost task again, because its commands may still be running.
            max_retries=0,
        )
        self._running: dict[str, tuple[ObjectRef, Job]] = {}

    def start(self, job: Job) -> None:
        """Sends a job to the cluster."""
        self._running[job.name] = self._task.remote(job), job

    def finished(self) -> dict[str, int]:
        """The jobs that ended since the last call."""
        names = {reference: name for name, (reference, _) in self._running.items()}
        done, _ = self._ray.wait(list(names), num_returns=len(names), timeout=0) if names else ([], [])
        return {names[reference]: self._code(*self._running.pop(names[reference])) for reference in done}

    def stop(self, name: str) -> None:
        """Interrupts a job, or removes it from the queue."""
        self._ray.cancel(self._running[name][0], force=False)

    def _code(self, reference: "ObjectRef", job: Job) -> int:
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
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # Ray has chosen the GPU of this task
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
