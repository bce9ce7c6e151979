"""What a measurement says of the machine it was made on."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor as the system names it, and whether it has VNNI, on which int8 engines stand or fall."""
    text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {'with' if has_vnni() else 'without'} VNNI"


def has_vnni() -> bool:
    """Whether the processor sums 8-bit products in 32 bits, so that int8 engines may use the full range."""
    text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
    return "avx512_vnni" in text or "avx_vnni" in text
