"""The processes that train together, each on its share of every batch. One that trains alone is a group of one.

Whoever starts them (`--devices`, torchrun, accelerate launch) tells each its place by environment variables. The first
one leads: it alone prints results and writes files. The first to fail speaks for all; the others leave without a word.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from kdqat_cli.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LIFELINE = "KDQAT_LIFELINE"
"""Names a pipe's end that every process holds: when the other end closes, whoever started the group is gone."""
STOPPED = 128 + signal.SIGTERM
GRACE = 10.0
"""Seconds in which a process that was asked to leave must have left."""

_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PEER_SEEN = 2.0  # seconds in which whoever started the group sees that one of it has died, and ends the others


class Terminated(KeyboardInterrupt):
    """SIGTERM came. The process leaves as after Ctrl-C: its folders are unlocked, and it says one line."""


@dataclass
class _Group:
    rank: int = 0
    size: int = 1
    store: Any = None


_group = _Group()


def heed_sigterm() -> None:
    """Makes SIGTERM raise `Terminated`, unless whoever started this process has it ignored."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def join(devices: int | None) -> int:
    """Joins the group that this process was started for, if it was.

    Args:
        devices: processes that the user wants; None: as many as were started.

    Returns:
        The processes of the group; of one that is still to be started, those that it is to have.

    Raises:
        ConfigError: other processes were started than the user wants, or more than there are GPUs.
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
            f"--devices {devices} is not the {_group.size} processes that were started (WORLD_SIZE).",
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
    """Whether this process was started as one of a group."""
    return all(name in os.environ for name in _PLACE)


def size() -> int:
    """Processes of the group."""
    return _group.size


def rank() -> int:
    """This process's place in the group, from 0."""
    return _group.rank


def leads() -> bool:
    """Whether this is the process that prints and writes."""
    return _group.rank == 0


def add_up(values: "Tensor") -> "Tensor":
    """The sum of all processes' tensors (any shape), in place; the same bits in each process."""
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
    """Takes the word for the group, if no other process has failed before.

    Args:
        code: exit code of this process's failure.
        sure: the failure is its own. If not, it may be that another has died without a word: whoever started the group
            sees that, and ends this process in time.

    Returns:
        Whether this process is to say why it failed, and the exit code to leave with: that of the first to fail.
    """
    if _group.store is None:
        return True, code
    if not sure:
        time.sleep(_PEER_SEEN)
    try:
        first = _group.store.compare_set("failed", "", f"{_group.rank} {code}").decode().split()
    except RuntimeError:  # gone with the process that keeps it, which has said why
        return False, code
    return int(first[0]) == _group.rank, int(first[1])


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(STOPPED)


def _leave_with_the_starter(lifeline: int) -> None:
    os.read(lifeline, 1)
    # In the main thread: Python's commands then leave in order and release the folders that they have locked.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(STOPPED)
