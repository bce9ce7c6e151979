"""Runs every measurement on a GPU, in one run of at most 8 minutes: `benchmarks/on_gpu.sh --help` and docs/gpu.md.

Each part is a process. If it fails or runs out of time, its last lines are reported and the other parts still run.
Groups of parts run one after the other; the parts of a group run at the same time. A group may also use the time that
earlier groups saved, so all groups together end in time.

This program imports only the standard library, because it must be able to report that torch or a wheel is broken.

It writes on_gpu.json, on_gpu.md and on_gpu.log into the output folder, again after each group. Exit code: 0, or 5 if a
part failed.
"""

import argparse
import datetime
import importlib.metadata
import os
import signal
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from on_gpu_parts import Part, Record, run_group
from on_gpu_report import write

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = REPOSITORY / f"kdqat_cli/native/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
PARTS_FAILED = 5
RESERVE = 10.0
"""Seconds of the run that are reserved for its start and for the results."""
CORES = os.cpu_count() or 1
NAMES = {"cuda": "GPU", "cpu": "processor"}


@dataclass(frozen=True)
class Sizes:
    """Arguments of the measuring programs."""

    tests: list[str]
    packed: list[str]
    training: dict[str, list[str]]


SHORT = ["--batch", "1", "--length", "5"]
SIZES = {
    "cuda": Sizes(
        tests=["-n", str(min(8, CORES))],  # most of this time Triton compiles, on one core per process
        packed=[],
        training={shape: ["--shapes", f"{shape}-32x128", "--rounds", "5"] for shape in ("base", "large")},
    ),
    "cpu": Sizes(
        tests=["-k", "two_bits or multiplied_out"],
        packed=["--rounds", "1", "--size", "128", "--rows", "1", "8", "--layers", "1", "--hidden", "64", *SHORT],
        training={"tiny": ["--shapes", "tiny-2x8", "--rounds", "1", "--no-peaks"]},
    ),
}


class Plan:
    """The groups of parts of one run.

    Attributes:
        groups: share of the time and parts of each group. The shares are in seconds of a run of 8 minutes.
    """

    def __init__(self, device: str, bundle: Path, work: Path) -> None:
        """Plans a run.

        Args:
            device: `cuda`, or `cpu` for a trial run with small sizes.
            bundle: folder that gpu_bundle.py wrote.
            work: an empty folder for temporary files.
        """
        self._device, self._bundle, self._work = device, bundle, work
        paths = [str(work / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        self._environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        if device == "cpu":
            self._environment["TRITON_INTERPRET"] = "1"
        sizes = SIZES[device]
        training = [(45.0 + 10 * (name == "large"), [self._training(name, sizes)]) for name in sizes.training]
        self.groups: list[tuple[float, list[Part]]] = [
            (75, [self._packages(), self._library()]),
            (15, [self._benchmark("machine", "on_gpu_machine.py", [])]),
            (65, [self._tests(sizes)]),
            (50, [self._benchmark("packed", "gpu.py", sizes.packed)]),
            *training,
            (60, [self._teacher()]),
            (70, [self._student(device), *([self._student("cpu")] if device == "cuda" else [])]),
            (15, [self._export()]),
            (20, [self._evaluate(on) for on in dict.fromkeys((device, "cpu"))]),
        ]

    def _packages(self) -> Part:
        wheels = sorted(map(str, (self._bundle / "wheels").glob("*.whl")))
        pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        command = [*pip, "--target", str(self._work / "site"), *wheels]
        return Part("packages", command, REPOSITORY, unneeded="" if wheels else "no wheels in the bundle")

    def _library(self) -> Part:
        try:
            importlib.metadata.version("kdqat")
            targets = []
        except importlib.metadata.PackageNotFoundError:
            targets = ["egg_info"]  # results record kdqat's version
        if not LIBRARY.exists():
            targets += ["build_ext", "--inplace"]
        command = [sys.executable, "setup.py", "--quiet", *targets]
        return Part("native library", command, REPOSITORY, unneeded="" if targets else "already built")

    def _tests(self, sizes: Sizes) -> Part:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/engine/test_gpu.py", *sizes.tests]
        # Without a GPU they would pass on the processor, and would show nothing.
        return Part("tests", command, REPOSITORY, needs=["machine"], environment=self._environment)

    def _benchmark(self, name: str, program: str, arguments: list[str]) -> Part:
        result = self._work / f"{name}.json"
        command = [sys.executable, str(REPOSITORY / "benchmarks" / program), "--device", self._device]
        command += ["--json", str(result), *arguments]
        return Part(name, command, REPOSITORY, result, environment=self._environment)

    def _training(self, name: str, sizes: Sizes) -> Part:
        arguments = ["--recipes", "clean", "--precisions", "fp32", "tf32", "bf16", *sizes.training[name]]
        return self._benchmark(f"training {name}", "training.py", arguments)

    def _kdqat(self, name: str, result: str, *command: str, needs: str = "", **environment: str) -> Part:
        # Runs in the user's folder, so that its params.yaml applies.
        return Part(
            name,
            [sys.executable, "-m", "kdqat_cli", *command],
            Path.cwd(),
            self._work / result,
            [needs] if needs else [],
            self._environment | environment,
        )

    def _teacher(self) -> Part:
        options = ["--task", "movie", "--encoder", str(self._bundle / "encoder"), "--data-dir"]
        options += [str(self._bundle / "data"), "--out", str(self._work / "teacher")]
        return self._kdqat("teacher", "teacher/run.json", "finetune-teacher", *options)

    def _student(self, device: str) -> Part:
        folder = self._work / f"student-{device}"
        options = ["--task", "movie", "--loss", "map+output", "--data-dir", str(self._bundle / "data")]
        options += ["--teacher", str(self._work / "teacher"), "--out", str(folder)]
        # Both trainings run at the same time: that on the GPU gets two cores, that on the processor the others.
        threads = min(2, CORES) if device == "cuda" else max(1, CORES - 2)
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        name = f"student, {NAMES[device]}"
        return self._kdqat(name, f"{folder.name}/run.json", "distill", *options, needs="teacher", **environment)

    def _export(self) -> Part:
        student = f"student-{self._device}"
        options = ["--student", str(self._work / student), "--out", str(self._work / "packed")]
        return self._kdqat("export", "packed/run.json", "export", *options, needs=f"student, {NAMES[self._device]}")

    def _evaluate(self, device: str) -> Part:
        result = f"packed-{device}.json"
        options = [str(self._work / "packed"), "--data-dir", str(self._bundle / "data"), "--device", device]
        options += ["--out", str(self._work / result)]
        return self._kdqat(f"packed student, {NAMES[device]}", result, "evaluate", *options, needs="export")


def main() -> None:
    """Runs the parts, and exits with the exit code."""
    start = time.monotonic()
    parser = _parser()
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the parts end too
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    log = out / "on_gpu.log"
    log.write_text("", encoding="utf-8")
    records: dict[str, Record] = {}
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "device": options.device}
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(options.device, options.bundle.resolve(), Path(folder))
        names = [part.name for _, parts in plan.groups for part in parts]
        if unknown := set(options.only or []) - set(names):
            parser.error(f"--only: there is no part {unknown.pop()!r}, but: {', '.join(names)}")
        second = (60 * options.minutes - RESERVE) / sum(share for share, _ in plan.groups)
        deadline = start
        for share, parts in plan.groups:
            deadline += share * second
            chosen = [part for part in parts if not options.only or part.name in options.only]
            for record in run_group(chosen, records, deadline, log):
                records[record.name] = record
                _tell(record)
            report |= {"seconds": round(time.monotonic() - start, 1), "parts": [r.as_json() for r in records.values()]}
            write(out, report)
    print((out / "on_gpu.md").read_text(encoding="utf-8"))
    raise SystemExit(PARTS_FAILED if any(record.failed for record in records.values()) else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="on_gpu.sh", description=(__doc__ or "").partition("`")[0].rstrip(": ") + ".")
    bundle = REPOSITORY / "build/gpu"
    parser.add_argument("--bundle", type=Path, default=bundle, help="folder that benchmarks/gpu_bundle.py wrote")
    out = Path(os.environ.get("OUT") or REPOSITORY / "build/on_gpu")
    parser.add_argument("--out", type=Path, default=out, help="folder of the results; default: $OUT, else build/on_gpu")
    parser.add_argument("--device", choices=list(SIZES), default="cuda", help="cpu: a trial run with small sizes")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole run; each part gets a share")
    parser.add_argument("--only", nargs="+", metavar="PART", help="run only these parts, by their names in the table")
    return parser


def _tell(record: Record) -> None:
    note = f" ({record.note})" if record.note else ""
    print(f"{record.name}: {record.state}{note}, {record.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
