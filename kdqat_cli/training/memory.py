"""The memory of a long training on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, until it ends; glibc alone has a say in that, elsewhere nothing happens.

    A step frees all that it allocated. glibc would give it back to the system, and the next step would get it page by
    page, each filled with zeros: on a virtual machine up to a sixth of a step's time. The peak stays what it was.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, -1)  # never give back the top of the heap
            mallopt(_MMAP_MAX, 0)  # take large tensors from the heap, too
