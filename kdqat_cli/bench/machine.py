"""What a measurement says of the machine it was made on."""

import platform
from pathlib import Path

from kdqat_cli.native.library import library

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor as the system names it, and whether it has VNNI, on which int8 engines stand or fall."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {'with' if has_vnni() else 'without'} VNNI"


def has_vnni() -> bool:
    """Whether the processor sums 8-bit products in 32 bits, so that int8 engines may use the full range.

    The processor itself is asked, as those engines ask it: where an instruction set is hidden from this process, the
    system's list still has it. Without the native library that list must do.
    """
    native = library()
    if native is not None:
        return bool(native.kdqat_vnni())
    return "avx512_vnni" in _cpuinfo() or "avx_vnni" in _cpuinfo()


def _cpuinfo() -> str:
    return _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
