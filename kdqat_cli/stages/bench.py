"""bench: latency, throughput, memory and size of a packed model, on kdqat's engine and on its peers.

Every engine lives in a process of its own and works only when it is its turn; turns are interleaved, so that what
slows the machine down slows all of them, and a ratio is of two turns of the same round. A turn begins when the threads
of the engine before have stopped spinning. Memory is what the process holds beyond its interpreter and imports after
its forward passes.

    kdqat            the engine, on the packed file
    torch FP32       transformers on the multiplied-out weights, torch's own attention
    ORT FP32         ONNX Runtime on the graph that its transformers optimiser makes
    ORT int8         the same graph, dynamic int8

On a GPU (`device="cuda"`) kdqat's engine stands beside torch FP32 and torch FP16; memory
is then the GPU's.
"""

import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.packing.packed_file import PackedFile
from kdqat_cli.runtime.device import Device
from kdqat_cli.stages.bench_engines import ENGINES, OWN, EngineName, serve
from kdqat_cli.stages.machine import processor
from kdqat_cli.stages.predict import packed_file

Shape = tuple[int, int]
"""Rows and tokens of a batch."""

_SHAPES: list[Shape] = [(1, 32), (1, 128), (8, 128)]
_PAUSE = 0.1  # seconds; ONNX Runtime's threads spin for some 25 ms after a pass, torch's for 4


@dataclass(frozen=True)
class _Worker:
    name: EngineName
    process: Any
    pipe: Connection

    def ask(self, question: Any) -> Any:
        """What the engine's process answers.

        Raises:
            ConfigError: the engine failed, in its own words.
        """
        self.pipe.send(question)
        return self.answer()

    def answer(self) -> Any:
        """The next answer."""
        try:
            value = self.pipe.recv()
        except EOFError as error:
            raise ConfigError(f"The process of {self.name} ended before it answered.") from error
        if isinstance(value, Exception):
            raise ConfigError(f"{self.name}: {value}") from value
        return value


def bench(
    model: str,
    shapes: list[Shape],
    threads: int,
    rounds: int,
    engines: list[EngineName],
    told: Callable[[str], None],
    device: Device = "cpu",
) -> dict[str, Any]:
    """Measures engines side by side.

    Args:
        model: a packed folder or file.
        shapes: batches to measure; none: 1 × 32, 1 × 128 and 8 × 128, cut to the length that the model was made for.
        threads: of every engine.
        rounds: turns of each engine at each shape.
        engines: which to measure; `kdqat` is always among them.
        told: is told what is going on.
        device: on which all engines compute.

    Returns:
        machine, date, threads, rounds; `latency`: one row an engine and shape (ms, its middle half, rows/s, and how
        many times kdqat's time it takes, median and middle half); `footprint`: one row an engine (MB on disk, MB in
        memory, seconds to load).

    Raises:
        ConfigError: an engine fails, or its package is missing.
        MissingInputError: no packed model there, or no GPU.
    """
    packed = packed_file(model)
    if packed is None:
        raise MissingInputError(f"There is no packed model {model}.", "kdqat export")
    machine = processor()
    if device == "cuda":
        from kdqat_cli.runtime.gpu.model import gpu, gpu_name

        machine = gpu_name(gpu())
    longest = PackedFile(packed).about.get("max_length") or max(tokens for _, tokens in _SHAPES)
    shapes = shapes or list(dict.fromkeys((rows, min(tokens, longest)) for rows, tokens in _SHAPES))
    names = list(dict.fromkeys([OWN, *engines]))
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            told(f"preparing {name}")
            ENGINES[device][name].prepare(packed, Path(scratch))
        workers = [_start(name, device, packed, Path(scratch), threads) for name in names]
        try:
            footprint = [{"engine": worker.name, **worker.answer()} for worker in workers]
            latency = []
            for shape in shapes:
                told(f"measuring {shape[0]} × {shape[1]}")
                latency += _rows(shape, workers, rounds)
            for row, worker in zip(footprint, workers, strict=True):
                row["MB in memory"] = worker.ask("memory")
        finally:
            for worker in workers:
                worker.pipe.close()  # at which the process ends by itself
                worker.process.join()
    about = {"machine": machine, "date": datetime.date.today().isoformat(), "threads": threads, "rounds": rounds}
    return about | {"latency": latency, "footprint": footprint}


def _start(name: EngineName, device: Device, packed: Path, scratch: Path, threads: int) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(name, device, packed, scratch, threads, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(name, process, ours)


def _rows(shape: Shape, workers: list[_Worker], rounds: int) -> list[dict[str, Any]]:
    for worker in workers:
        worker.ask(shape)  # the first pass of a shape allocates
    seconds = {worker.name: [] for worker in workers}  # type: dict[EngineName, list[float]]
    for _ in range(rounds):
        for worker in workers:
            time.sleep(_PAUSE)
            seconds[worker.name].append(worker.ask(shape))
    rows = []
    for name, own in seconds.items():
        times = [peer / base for peer, base in zip(own, seconds[OWN], strict=True)]
        low, middle, high = _quartiles(own)
        row = {"rows × tokens": f"{shape[0]} × {shape[1]}", "engine": name, "ms": 1e3 * middle}
        row |= {"middle half": f"{1e3 * low:.1f} to {1e3 * high:.1f}", "rows/s": shape[0] / middle}
        low, middle, high = _quartiles(times)
        rows.append(row | {"times kdqat's": f"{middle:.2f} ({low:.2f} to {high:.2f})"})
    return rows


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
