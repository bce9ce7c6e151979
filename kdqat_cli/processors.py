"""How many processors this process may use: at most those that its affinity allows and its control group pays for.

A container gets a share of the processors' time (`docker run --cpus 2`, `resources.limits.cpu` of Kubernetes) but sees
all of them. If more threads run than the share allows, the system stops all of them for a part of every period, and
kdqat's threads wait for each other. The share is rounded down, but to at least 1.

    cgroup v2    /sys/fs/cgroup/<path>/cpu.max                        "200000 100000", or "max 100000"
    cgroup v1    /sys/fs/cgroup/cpu/<path>/cpu.cfs_quota_us and …_period_us; a quota of -1 means no limit

The limits of all parent groups apply as well.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def processors() -> int:
    """The number of processors that this process may use."""
    limit = processor_limit()
    return allowed_processors() if limit is None else max(1, min(allowed_processors(), int(limit)))


def allowed_processors() -> int:
    """The number of processors that the system lets this process run on, without regard to its share of their time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_limit(groups: Path = _GROUPS, own: Path = _OWN) -> float | None:
    """The number of processors whose time the control group gives; None: no limit.

    Args:
        groups: folder in which the system shows the groups.
        own: file that names the groups of this process.
    """
    shares = []
    for folder in _folders(groups, own, "cpu"):
        quota, period = _numbers(folder / "cpu.max")
        if quota is None:
            (quota, _), (period, _) = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
        if quota is not None and period is not None and quota > 0 and period > 0:
            shares.append(quota / period)
    return min(shares, default=None)


def memory_limit(groups: Path = _GROUPS, own: Path = _OWN) -> int | None:
    """Bytes of memory that the control group gives; None: no limit. For the arguments see `processor_limit`."""
    limits = [
        limit
        for folder in _folders(groups, own, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _numbers(folder / name)[0]) is not None and limit < 2**60  # v1: a larger number is no limit
    ]
    return min(limits, default=None)


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups, and of all their parent groups."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        names, _, path = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        top = groups / controller if names else groups
        # In a container the path may be the host's, which does not exist inside: the top folder is then the group.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _numbers(path: Path) -> tuple[int | None, int | None]:
    """The first two numbers in a file; None for each that is missing or not a number."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        words = []
    found = [int(word) if word.removeprefix("-").isdigit() else None for word in words[:2]]
    return (*found, None, None)[:2]  # type: ignore[return-value]
