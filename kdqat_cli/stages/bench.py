"""bench: latency, throughput, memory and size of a packed model, on kdqat's engine and on other engines (its peers).

Each engine has its own process, and only one of them computes at a time. In each round every engine has one turn. So a
slow phase of the machine affects all engines, and a ratio compares two turns of the same round. The memory of an engine
is what its process holds after the forward passes, less what it held after its imports.

A peer that cannot run here is left out with a remark, and so is a peer whose logits show that it computes another
model. The measure of that, `off`, is |peer - kdqat| / |kdqat - mean of kdqat over the rows|, in norms of the logits of
all rows. It is not 0 even for FP32 engines, because kdqat rounds activations to 8 bits.

    kdqat            the engine, on the packed file
    torch FP32       transformers on the dequantised weights, with torch's own attention
    ORT FP32         ONNX Runtime, on the graph that its transformers optimiser makes
    ORT int8         the same graph with dynamic int8 quantisation

On a GPU (`device="cuda"`) the peers are torch FP32 and torch FP16, and memory is that of the GPU.
"""

import datetime
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.bench.engines import OWN, EngineSpec, serve
from kdqat_cli.bench.machine import processor
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.networks.families import configured
from kdqat_cli.packing.packed_file import PackedFile
from kdqat_cli.stages.predict import packed_file
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.folder import BENCH, MODEL
from kdqat_cli.store.places import writer_of
from kdqat_cli.store.writing import refuse_target, write_json

Shape = tuple[int, int]
"""Rows and tokens of a batch."""


SHAPES: list[Shape] = [(1, 32), (1, 128), (8, 128)]
_COMPARED: Shape = (16, 32)
_FARTHEST = 0.5  # largest `off` of a peer; beyond it, the peer computes another model


Latency = TypedDict(
    "Latency",
    {
        "rows × tokens": str,
        "engine": str,
        "ms": float,
        "middle half": str,
        "rows/s": float,
        "times kdqat's": str,
    },
)
"""One engine at one shape: median and middle half of its milliseconds, and its time divided by kdqat's."""

Footprint = TypedDict(
    "Footprint",
    {"engine": str, "MB on disk": float, "seconds to load": float, "off": float, "MB in memory": float},
    total=False,
)
"""One engine: the size of its file, its loading time, how far its logits are from kdqat's, and its memory."""


class Benchmark(TypedDict):
    """The result of `bench`."""

    machine: str
    """Name of the processor or the GPU."""
    date: str
    """Date as YYYY-MM-DD."""
    sha256: str
    """sha256 of the packed file."""
    threads: int
    """Threads of each engine."""
    rounds: int
    """Turns of each engine at each shape."""
    latency: list[Latency]
    """One row per shape and engine."""
    footprint: list[Footprint]
    """One row per engine."""


@dataclass
class _Worker:
    name: str
    process: SpawnProcess
    pipe: Connection
    footprint: Footprint = field(default_factory=Footprint)
    logits: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def ask(self, question: object) -> Any:
        """Sends a question to the engine's process and returns the answer.

        Raises:
            ConfigError: the engine failed; the message is the engine's.
        """
        self.pipe.send(question)
        return self.answer()

    def answer(self) -> Any:
        """Waits for the next answer."""
        try:
            value = self.pipe.recv()
        except EOFError as error:
            raise ConfigError(f"The process of {self.name} ended before it answered.") from error
        if isinstance(value, Exception):
            raise ConfigError(f"{self.name}: {value}") from value
        return value

    def end(self) -> None:
        """Ends the engine's process."""
        self.pipe.close()  # the process ends by itself when its pipe is closed
        self.process.join()


def bench(
    model: str,
    shapes: list[Shape],
    threads: int,
    rounds: int,
    engines: dict[str, EngineSpec],
    told: Callable[[str], None],
) -> Benchmark:
    """Measures engines side by side.

    Args:
        model: a packed folder or file.
        shapes: batches to measure; empty: 1 × 32, 1 × 128 and 8 × 128, cut to the model's row length.
        threads: threads of each engine.
        rounds: turns of each engine at each shape.
        engines: name → engine, all on one device; one of them is `kdqat`.
        told: called with a sentence about each step, and about each peer that is left out.

    Raises:
        ConfigError: kdqat's engine cannot run the model, a shape has more tokens than the model has positions, or a
            peer fails at one of the shapes.
        MissingInputError: there is no packed model, or no GPU.
    """
    packed = _packed(model)
    machine = _machine(engines[OWN])
    longest, shapes = _lengths(PackedFile(packed), shapes)
    with _workers(engines, packed, threads, longest, told) as workers:
        latency = [row for shape in shapes for row in _rows(shape, workers, rounds, told)]
        for worker in workers:
            worker.footprint["MB in memory"] = worker.ask("memory")
    return {
        "machine": machine,
        "date": datetime.date.today().isoformat(),
        "sha256": file_digest(packed),
        "threads": threads,
        "rounds": rounds,
        "latency": latency,
        "footprint": [worker.footprint for worker in workers],
    }


def bench_file(model: str) -> Path:
    """Where `save` writes: beside the folder model/ of a packed model, where the report looks for it.

    Raises:
        ConfigError: there is a file that kdqat did not write.
        MissingInputError: there is no packed model, or nothing can be written there.
    """
    folder = _packed(model).parent
    folder = folder if folder.name else folder.absolute()
    path = (folder.parent if folder.name == MODEL else folder) / BENCH
    refuse_target(path, _is_benchmark)
    return path


def save(result: Benchmark, path: Path) -> None:
    """Writes the result of `bench`; an earlier one is replaced.

    Raises:
        ConfigError: see `bench_file`.
        MissingInputError: see `bench_file`.
    """
    write_json(path, result, _is_benchmark)


def _is_benchmark(text: str) -> bool:
    return text.startswith("{") and '"latency": [' in text and '"footprint": [' in text


def _packed(model: str) -> Path:
    packed = packed_file(model)
    if packed is None:
        refuse_absent(model, writer_of(model))
        raise MissingInputError(
            f"{model} is not a packed model.",
            f"kdqat export --student {model}, if it is a student, then kdqat bench with the packed folder",
        )
    return packed


def _machine(engine: EngineSpec) -> str:
    if engine.device == "cpu":
        return processor()
    from kdqat_cli.engine.gpu.model import gpu, gpu_name

    return gpu_name(gpu())


@contextmanager
def _workers(
    engines: dict[str, EngineSpec], packed: Path, threads: int, longest: int, told: Callable[[str], None]
) -> Iterator[list[_Worker]]:
    """Starts each engine that can run here in a process of its own; the processes end with the block."""
    words = PackedFile(packed).config["vocab_size"]
    ids = np.random.default_rng(1).integers(words // 2, words, (_COMPARED[0], min(_COMPARED[1], longest)))
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name, engine in engines.items():
                told(f"preparing {name}")
                try:
                    engine.prepare(packed, Path(scratch))
                    workers.append(_start(name, engine, packed, Path(scratch), threads))
                    _compare(workers, ids)
                except KdqatError as error:
                    if name == OWN:
                        raise
                    told(f"{name} is left out: {error.sentence}" + (f" ({error.fix})" if error.fix else ""))
            yield workers
        finally:
            for worker in workers:
                worker.end()


def _lengths(file: PackedFile, shapes: list[Shape]) -> tuple[int, list[Shape]]:
    """The model's row length in tokens, and the shapes to measure: the given ones, or the default ones cut to it."""
    longest = file.record.max_length or max(tokens for _, tokens in SHAPES)
    most = configured(file.config).longest_row(file.config)
    for rows, tokens in shapes:
        if most is not None and tokens > most:
            raise ConfigError(
                f"A row of {tokens} tokens is too long: the model has positions for {most} tokens.",
                f"--shape {rows}x{most}",
            )
    return longest, shapes or list(dict.fromkeys((rows, min(tokens, longest)) for rows, tokens in SHAPES))


def _start(name: str, engine: EngineSpec, packed: Path, scratch: Path, threads: int) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(engine, packed, scratch, threads, theirs), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(name, process, ours, {"engine": name})
    worker.footprint.update(worker.answer())
    return worker


def _compare(workers: list[_Worker], ids: NDArray[np.int64]) -> None:
    """Compares the last worker with the first, which is kdqat, and ends the last if it computes another model.

    Raises:
        ConfigError: it computes another model.
    """
    last = workers[-1]
    last.logits = last.ask(ids)
    own = workers[0].logits
    off = float(np.linalg.norm(last.logits - own) / np.linalg.norm(own - own.mean(0)))
    last.footprint["off"] = off
    if not off <= _FARTHEST:
        workers.pop().end()
        raise ConfigError(f"its logits differ from kdqat's by {100 * off:.0f} %, so it computes another model.")


def _rows(shape: Shape, workers: list[_Worker], rounds: int, told: Callable[[str], None]) -> list[Latency]:
    told(f"measuring {shape[0]} × {shape[1]}")
    for worker in workers:
        worker.ask(shape)  # not measured: the first pass of a shape allocates memory
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            seconds[worker.name].append(worker.ask(shape))
    return [_row(shape, name, own, seconds[OWN]) for name, own in seconds.items()]


def _row(shape: Shape, name: str, own: list[float], base: list[float]) -> Latency:
    low, middle, high = _quartiles(own)
    least, times, most = _quartiles([mine / theirs for mine, theirs in zip(own, base, strict=True)])
    return {
        "rows × tokens": f"{shape[0]} × {shape[1]}",
        "engine": name,
        "ms": 1e3 * middle,
        "middle half": f"{1e3 * low:.1f} to {1e3 * high:.1f}",
        "rows/s": shape[0] / middle,
        "times kdqat's": f"{times:.2f} ({least:.2f} to {most:.2f})",
    }


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
