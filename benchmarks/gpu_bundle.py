"""Collects the files that benchmarks/on_gpu.sh needs without network: `python benchmarks/gpu_bundle.py --help`.

Writes into a new folder:
- wheels/: kdqat's dependencies that such a machine lacks, for Python 3.12 on Linux, x86-64, in the versions of this
  environment. The machine is assumed to have the packages `PRESENT` and their dependencies. dvc is left out: no part of
  the run uses it, and its 70 dependencies take 17 MB.
- encoder/: the embedded encoder, in half precision.
- data/: the task movie.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file, save
from torch import Tensor

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.stages.fetch import fetch
from kdqat_cli.tasks.sources import ASSETS

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = "3.12"
PRESENT = (
    "torch",
    "transformers",
    "accelerate",
    "triton",
    "numpy",
    "safetensors",
    "scikit-learn",
    "scipy",
    "pyarrow",
    "pandas",
    "psutil",
    "typer",
    "rich",
    "pyyaml",
    "setuptools",
)
TESTING = ("pytest", "pytest-xdist")
UNUSED = ("dvc",)
LARGEST = 60e6
"""Largest size of the whole folder, in bytes."""
_GLIBC = range(5, 36)  # minor versions of glibc whose wheels are downloaded; the machine is assumed to have the last
_WEIGHTS = "model.safetensors"


def main() -> None:
    """Makes the folder, and prints the size of each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("folder", type=Path, nargs="?", default=REPOSITORY / "build/gpu", help="new folder")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of `kdqat fetch`, which is run if needed")
    options = parser.parse_args()
    try:
        gather(options.folder, options.assets)
    except KdqatError as error:
        print(f"{error.sentence}\n{error.fix or ''}".strip(), file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def gather(folder: Path, assets: Path) -> None:
    """Makes the folder.

    Raises:
        ConfigError: the folder exists already, or became too large.
        MissingInputError: a package could not be downloaded.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already.", f"rm -r {folder}, or another folder")
    fetch(assets)
    folder.mkdir(parents=True)
    download(missing(), folder / "wheels")
    halve(assets / "encoder", folder / "encoder")
    shutil.copytree(assets / "data", folder / "data")
    sizes = {part.name: _bytes(part) for part in sorted(folder.iterdir())}
    for name, size in sizes.items():
        print(f"{name:10} {size / 1e6:6.1f} MB")
    print(f"{'all':10} {sum(sizes.values()) / 1e6:6.1f} MB in {folder}")
    if sum(sizes.values()) > LARGEST:
        raise ConfigError(
            f"{folder} is larger than {LARGEST / 1e6:.0f} MB.", "leave out a package: benchmarks/gpu_bundle.py"
        )


def missing() -> list[str]:
    """The packages that the machine lacks, as name==version."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} | set(TESTING)
    lacking = names - set(PRESENT) - set(UNUSED)
    needed = needs(lacking, needs(PRESENT, lacking | set(UNUSED)))
    return [f"{name}=={metadata.version(name)}" for name in sorted(needed) if _version(name)]


def needs(names: Iterable[str], without: Collection[str] = ()) -> set[str]:
    """The packages and all their dependencies, except `without` and what only these need."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found or name in without:
            continue
        found.add(name)
        for line in metadata.requires(name) or [] if _version(name) else []:
            requirement = Requirement(line)
            there = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "extra": ""}
            if requirement.marker is None or requirement.marker.evaluate(there):
                todo.append(requirement.name)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def download(packages: list[str], folder: Path) -> None:
    """Downloads wheels from the package index that pip is configured for.

    Raises:
        MissingInputError: pip failed; the message has its reason.
    """
    tags = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder)]
    command += [word for tag in tags for word in ("--platform", tag)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        reasons = re.findall(r"^ERROR: (.+?)\.?$", done.stderr, re.MULTILINE) or done.stderr.splitlines()
        reason = reasons[-1] if reasons else f"pip failed with exit code {done.returncode}"
        raise MissingInputError(f"The wheels could not be downloaded: {reason}.", "the same command, with network")


def halve(encoder: Path, folder: Path) -> None:
    """Copies an encoder, with weights in half precision."""
    shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns(_WEIGHTS))
    halves = {name: _half(tensor) for name, tensor in load_file(encoder / _WEIGHTS).items()}
    (folder / _WEIGHTS).write_bytes(save(halves, metadata={"format": "pt"}))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _bytes(part: Path) -> int:
    return sum(path.stat().st_size for path in part.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
