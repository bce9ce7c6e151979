"""Builds the native library of the engine; all other settings are in pyproject.toml.

Each kernel file is compiled for its own instruction set, and the library chooses a kernel at run time. The rest of the
library is compiled for every processor. Without a compiler the installation continues (`optional`), and torch computes
instead of the engine.
"""

import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("kdqat_cli/native/src")
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vnni"]
INSTRUCTION_SETS = {
    "avx2": AVX2,
    "avx512vnni": AVX512,
    "avx512amx": [*AVX512, "-mamx-tile", "-mamx-int8"],  # without the flag the kernel is never available
    "neon": ["-march=armv8.2-a+dotprod"],
}
# -Wno-*uninitialized: GCC 12 warns about its own header for AVX-512.
COMMON = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]


class BuildNative(build_ext):
    """Compiles each source with its own flags; `--flags` adds flags to all of them, for example a sanitizer's."""

    user_options: ClassVar = [*build_ext.user_options, ("flags=", None, "more flags for compiler and linker")]

    def initialize_options(self) -> None:
        """Starts without additional flags."""
        super().initialize_options()
        self.flags = ""

    def build_extension(self, ext: Any) -> None:
        """Builds one extension; if it is optional, setuptools reports a failure and continues."""
        ext.extra_compile_args += self.flags.split()
        ext.extra_link_args += self.flags.split()
        compile_one = self.compiler._compile
        wanted = {source: flags for source, flags in INSTRUCTION_SETS.items() if _for_this_machine(source)}
        if "avx512amx" in wanted and not self._takes(wanted["avx512amx"]):
            wanted["avx512amx"] = AVX512

        def with_flags(obj: str, src: str, ext_: str, cc_args: Any, extra_postargs: Any, pp_opts: Any) -> None:
            compile_one(obj, src, ext_, cc_args, [*extra_postargs, *wanted.get(Path(src).stem, [])], pp_opts)

        self.compiler._compile = with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one

    def _takes(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder) / "empty.cpp"
            empty.touch()
            try:
                self.compiler.compile([str(empty)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
        return True


def _for_this_machine(source: str) -> bool:
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return (source == "neon") == arm


setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            "kdqat_cli.native._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.cpp")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            extra_compile_args=COMMON,
            extra_link_args=["-pthread"] if sys.platform != "darwin" else [],
            language="c++",
            optional=True,
        )
    ],
)
