"""Describes the machine of a measurement."""

import platform
from pathlib import Path

from kdqat_cli.native.library import library

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The name of the CPU, and whether it has VNNI, which decides the speed of int8 engines."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {'with' if has_vnni() else 'without'} VNNI"


def has_vnni() -> bool:
    """Whether the CPU sums 8-bit products in 32 bits, so that int8 engines can use the full range.

    This asks the CPU itself, as those engines do, because the list of the system still names instruction sets that are
    hidden from this process. Without the native library, the list is used.
    """
    native = library()
    if native is not None:
        return bool(native.kdqat_vnni())
    return "avx512_vnni" in _cpuinfo() or "avx_vnni" in _cpuinfo()


def _cpuinfo() -> str:
    return _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
