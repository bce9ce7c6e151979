"""The group of processes that train together, each on its share of every batch. A single process is a group of one.

The program that starts the processes (`--devices`, torchrun, accelerate launch) gives each its rank by environment
variables. Only the process with rank 0 prints results and writes files. The first process that fails prints the error;
the others exit silently.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from kdqat_cli.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import PrefixStore

LIFELINE = "KDQAT_LIFELINE"
"""The variable with the descriptor of a pipe; the other end closes when the starter of the group is gone."""
STOPPED = 128 + signal.SIGTERM
GRACE = 10.0
"""Seconds after which a process that was asked to exit is killed."""

_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PEER_SEEN = 2.0  # seconds in which the starter of the group notices a dead process and ends the others


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. The process exits as after Ctrl-C: it unlocks its folders and prints one line."""


@dataclass
class _Group:
    rank: int = 0
    size: int = 1
    store: "PrefixStore | None" = None


_group = _Group()


def heed_sigterm() -> None:
    """Makes SIGTERM raise `Terminated`, unless this process was started with SIGTERM ignored."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def join(devices: int | None) -> int:
    """Joins the group if this process was started as a member of one.

    Args:
        devices: number of processes that the user wants; None: as many as were started.

    Returns:
        The number of processes of the group, or `devices` if the group is not started yet.

    Raises:
        ConfigError: the number of started processes is not `devices`, or is larger than the number of GPUs.
    """
    if not started():
        return devices or 1
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    signal.signal(signal.SIGTERM, _leave)
    if LIFELINE in os.environ:
        threading.Thread(target=_leave_with_the_starter, args=(int(os.environ[LIFELINE]),), daemon=True).start()
    store, _group.rank, _group.size = next(rendezvous("env://"))
    _group.store = PrefixStore("kdqat", store)
    if devices not in (None, _group.size):
        raise ConfigError(
            f"--devices {devices} does not match the {_group.size} processes that were started (WORLD_SIZE).",
            "the same command without --devices",
        )
    gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        if local >= gpus:
            raise ConfigError(f"There are more processes than the {gpus} GPUs of this machine.")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpus else "gloo", store=store, rank=_group.rank, world_size=_group.size)
    return _group.size


def started() -> bool:
    """Whether this process was started as a member of a group."""
    return all(name in os.environ for name in _PLACE)


def size() -> int:
    """The number of processes of the group."""
    return _group.size


def rank() -> int:
    """The rank of this process in the group, from 0."""
    return _group.rank


def leads() -> bool:
    """Whether this is the process that prints and writes."""
    return _group.rank == 0


def add_up(values: "Tensor") -> "Tensor":
    """Sums the tensors (any shape) of all processes in place; every process gets the same bits."""
    if _group.size > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values


def meet() -> None:
    """Waits for the other processes."""
    if _group.size > 1:
        import torch.distributed as dist

        dist.barrier()


def fail(code: int, sure: bool = True) -> tuple[bool, int]:
    """Registers the failure of this process, and finds the first process that failed.

    Args:
        code: exit code of the failure.
        sure: whether the failure is of this process. If not, another process may have died silently; the starter of the
            group then notices it and ends this process during a short wait.

    Returns:
        Whether this process must print its error, and the exit code of the first process that failed.
    """
    if _group.store is None:
        return True, code
    if not sure:
        time.sleep(_PEER_SEEN)
    try:
        first = _group.store.compare_set("failed", "", f"{_group.rank} {code}").decode().split()
    except RuntimeError:  # the store is gone with its process, which has printed the error
        return False, code
    return int(first[0]) == _group.rank, int(first[1])


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(STOPPED)


def _leave_with_the_starter(lifeline: int) -> None:
    os.read(lifeline, 1)
    # In the main thread, so that commands clean up and release their locked folders.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(STOPPED)
