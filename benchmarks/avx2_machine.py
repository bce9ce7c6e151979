"""`--as-avx2`: runs a benchmark as on a processor without newer instruction sets than AVX2 (see avx2_machine.c)."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kdqat_cli.bench.machine import processor

_SOURCE = Path(__file__).with_suffix(".c")
_PRELOAD = "LD_PRELOAD"
_LIBRARY = "libavx2_machine.so"
_TUNABLES = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW"
_TRAPS = "cpuid_fault"


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the options of a benchmark, and `--as-avx2`, which runs the benchmark again with hidden sets and exits."""
    parser.add_argument(
        "--as-avx2", action="store_true", help="hide AVX-512, VNNI and AMX from every engine (Linux, x86)"
    )
    options = parser.parse_args()
    if options.as_avx2 and not hidden():
        sys.exit(_again())
    return options


def hidden() -> bool:
    """Whether this process runs with newer instruction sets hidden."""
    return _LIBRARY in os.environ.get(_PRELOAD, "")


def machine() -> str:
    """The name of the processor, and the hidden instruction sets."""
    return processor() + (" (AVX-512, VNNI and AMX hidden)" if hidden() else "")


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that must not see newer instruction sets.

    Args:
        folder: folder for the compiled library; it must exist as long as the process runs.
    """
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or _TRAPS not in flags.read_text(encoding="utf-8").split():
        sys.exit(f"--as-avx2 needs Linux and a processor that can trap CPUID (the flag {_TRAPS}); this one cannot.")
    library = folder / _LIBRARY
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    if shutil.which("cc") is None or subprocess.run(command, check=False).returncode:  # noqa: S603
        sys.exit(f"--as-avx2 needs a C compiler, but `cc` does not compile {_SOURCE}.")
    preload = " ".join(filter(None, [os.environ.get(_PRELOAD), str(library)]))
    return dict(os.environ, GLIBC_TUNABLES=_TUNABLES, **{_PRELOAD: preload})


def undisguised() -> dict[str, str]:
    """The environment of a process that sees the whole processor, such as a compiler, which handles SIGSEGV itself."""
    libraries = [name for name in os.environ.get(_PRELOAD, "").split() if _LIBRARY not in name]
    return dict(os.environ, **{_PRELOAD: " ".join(libraries)})


def _again() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv]
        return subprocess.run(command, env=environment(Path(folder)), check=False).returncode  # noqa: S603
