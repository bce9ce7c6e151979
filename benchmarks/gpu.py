"""The packed model on a GPU beside torch's FP16, int8, TF32 and FP32: `python benchmarks/gpu.py --help`.

1. One linear layer, by the number of rows: the time of the GPU, without the launches from Python (CUDA graphs). Many
weight matrices take turns, so that no matrix is still in the cache at its next use. `kdqat` and `int8` include the
rounding of activations, as in each linear layer of a model; `product` is kdqat's product without it. 2. A model of
BERT-base's shape with random weights: the time of a call, and the time of the GPU alone. `int8` is the
   packed model with int8 weights in memory and torch's product.

Runs are interleaved, and figures are medians. The values of the weights have no effect on the time. `--tiles` measures
the tile sizes that kdqat's product chooses among, and others, to find better ones.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from kdqat_cli.config import Params
from kdqat_cli.engine.gpu.layers import (
    PackedLinear,
    integer_sums,
    pack_two_bits,
    runs_triton,
    ternary_product,
    unpack_two_bits,
)
from kdqat_cli.engine.gpu.model import PackedModel, gpu, gpu_name
from kdqat_cli.errors import KdqatError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.params import resolve
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record

Run = Callable[[], object]
_CACHE = 128 * 2**20  # bytes; more than twice an H100's second-level cache
_ALPHA = 0.05


def main() -> None:
    """Measures, and prints the tables."""
    options = _options()
    try:
        device = gpu() if options.device == "cuda" else torch.device("cpu")
    except KdqatError as error:
        print(error.sentence, file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    console = Console(width=140)
    machine = gpu_name(device) if device.type == "cuda" else f"processor, Triton interpreted: {runs_triton(device)}"
    console.print(f"{machine}; {options.rounds} rounds, {datetime.date.today().isoformat()}")
    with torch.no_grad():
        _check(device)
        console.print("kdqat's sums equal torch's int8 sums, bit for bit")
        if options.tiles:
            _tiles(console, device, options)
        result = {"machine": machine, "rounds": options.rounds, "linear": _linear(console, device, options)}
        _save(options.json, result)
        _save(options.json, result | {"model": _models(console, device, options)})


def _save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the program out")
    parser.add_argument("--rounds", type=int, default=15, help="number of turns of each engine")
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs of the linear layer")
    parser.add_argument("--rows", type=int, nargs="+", default=[2**power for power in range(13)], help="of the linear")
    parser.add_argument("--layers", type=int, default=12, help="of the model")
    parser.add_argument("--hidden", type=int, default=768, help="width of the model, in heads of 64")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128], help="rows of the model")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--json", type=Path, help="file for the numbers of the linear and of the model")
    parser.add_argument("--tiles", action="store_true", help="measure kdqat's tiles as well")
    return parser.parse_args()


def _check(device: torch.device) -> None:
    """Compares the product's sums with torch's, for tails of rows, outputs and columns; also compiles the kernels."""
    for rows, outputs, columns in ((1, 9, 33), (3, 40, 768), (7, 130, 128), (40, 130, 300), (300, 200, 768)):
        codes = torch.randint(-127, 128, (rows, columns), dtype=torch.int8, device=device)
        weight = pack_two_bits(torch.randint(-1, 2, (outputs, columns), dtype=torch.int8, device=device))
        sums = ternary_product(codes, torch.ones(rows, device=device), weight, 1.0, None)
        if not torch.equal(sums.int(), integer_sums(codes, weight)):
            raise SystemExit(f"the sums of {rows} × {columns} and {outputs} outputs are wrong")


def _linear(console: Console, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Prints the table of the linear layer.

    Returns:
        The size; the rows (their number, and microseconds of every engine); and the crossover for FP16 and int8.
    """
    size = options.size
    on_cpu = device.type == "cpu"
    copies, float_copies = (2 if on_cpu else -(-8 * _CACHE // (size * size * bits)) for bits in (2, 16))
    draw = [torch.randint(-1, 2, (size, size), dtype=torch.int8, device=device) for _ in range(copies)]
    packed = [pack_two_bits(codes) for codes in draw]
    floats = [codes.float() * _ALPHA for codes in draw[:float_copies]]
    halves = [weight.half() for weight in floats]
    bias = torch.randn(size, device=device)
    quantizer = _quantizer(device)
    names = ("kdqat", "product", "FP16", "int8", "TF32", "FP32")
    table = Table("rows", *names, "FP16 / kdqat", "int8 / kdqat", box=None, title=f"linear {size} → {size}, µs")
    times: list[dict[str, Any]] = []
    for rows in options.rows:
        x = torch.randn(rows, size, device=device)
        rounded = quantizer.rounded(x)
        values, scales = rounded.values, rounded.scale.flatten()
        jobs: dict[str, list[Run]] = {
            "kdqat": [partial(_packed_linear, quantizer, x, weight, bias) for weight in packed],
            "product": [partial(ternary_product, values, scales, weight, _ALPHA, bias) for weight in packed],
            "FP16": [partial(F.linear, x.half(), weight, bias.half()) for weight in halves],
            "int8": [partial(_int8_linear, quantizer, x, weight, bias) for weight in draw],
            "TF32": [_tf32(partial(F.linear, x, weight, bias)) for weight in floats],
            "FP32": [partial(F.linear, x, weight, bias) for weight in floats],
        }
        seconds = _measure({name: _graph(runs, device) for name, runs in jobs.items()}, options.rounds, device)
        times.append({"rows": rows} | {name: seconds[name] * 1e6 for name in names})
        shown = [f"{times[-1][name]:,.1f}" for name in names]
        ratios = [f"{seconds[other] / seconds['kdqat']:.2f}" for other in ("FP16", "int8")]
        table.add_row(f"{rows:,}", *shown, *ratios)
    console.print(table)
    crossovers = {other: crossover(times, other) for other in ("FP16", "int8")}
    for other, rows_there in crossovers.items():
        console.print(f"{other} is at least as fast as kdqat from {rows_there or 'no measured number of'} rows on")
    return {"size": size, "rows": times, "crossover": crossovers}


def crossover(times: list[dict[str, Any]], other: str) -> int | None:
    """The smallest number of rows from which `other` is never slower than kdqat; None: it is slower at the largest."""
    descending = sorted(times, key=lambda row: -row["rows"])
    faster = itertools.takewhile(lambda row: row[other] <= row["kdqat"], descending)
    return min((row["rows"] for row in faster), default=None)


def _quantizer(device: torch.device) -> ActivationQuantizer:
    if not runs_triton(device):
        return ActivationQuantizer(8, None)
    from kdqat_cli.engine.gpu.kernels import KernelQuantizer

    return KernelQuantizer(8, None)


def _packed_linear(quantizer: ActivationQuantizer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rounded = quantizer._rounded(x)  # not `rounded`, which caches its result
    return ternary_product(rounded.values, rounded.scale.flatten(), weight, _ALPHA, bias)


def _int8_linear(quantizer: ActivationQuantizer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rounded = quantizer._rounded(x)
    return _int8_product(rounded.values, rounded.scale, weight, _ALPHA, bias)


def _tf32(run: Run) -> Run:
    def with_tensor_cores() -> object:
        torch.set_float32_matmul_precision("high")
        out = run()
        torch.set_float32_matmul_precision("highest")
        return out

    return with_tensor_cores


def _int8_product(values: Tensor, scales: Tensor, weight: Tensor, alpha: float, bias: Tensor) -> Tensor:
    padded = F.pad(values, (0, 0, 0, max(0, 32 - len(values))))  # torch's product on a GPU needs more than 16 rows
    sums = torch._int_mm(padded, weight.t())[: len(values)]
    return torch.addcmul(bias, sums, scales * alpha)


class _Int8Linear(nn.Module):
    """A packed linear layer with 8-bit weights, computed by torch's product."""

    def __init__(self, packed: PackedLinear, columns: int) -> None:
        super().__init__()
        self.quantizer, self.scale, self.bias = packed.quantizer, packed.scale, packed.bias
        self.register_buffer("weight", unpack_two_bits(packed.weight, columns).contiguous(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        rounded = self.quantizer.rounded(inputs)
        weight: Any = self.weight
        out = _int8_product(rounded.values.flatten(0, -2), rounded.scale.reshape(-1, 1), weight, self.scale, self.bias)
        return out.view(*inputs.shape[:-1], -1)


def _models(console: Console, device: torch.device, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints the table of the model, and returns its rows: MB are 10^6 bytes, null if they are not known."""
    models = _built(device, options.layers, options.hidden)
    jobs: dict[int, dict[str, Run]] = {}
    for rows in options.batch:
        ids = torch.randint(1000, 2000, (rows, options.length), device=device)
        jobs[rows] = {name: partial(model, ids) for name, model in models.items()}
        jobs[rows]["TF32"] = _tf32(jobs[rows]["FP32"])
    called = {rows: _measure(runs, options.rounds, device) for rows, runs in jobs.items()}
    peaks = {(rows, name): _peak(run, device) for rows, runs in jobs.items() for name, run in runs.items()}
    # At the end, because a recording that fails may end the process.
    alone = {rows: _measure(_recorded(runs, device), options.rounds, device) for rows, runs in jobs.items()}
    found = []
    for rows, times in called.items():
        for name, seconds in times.items():
            weights, peak = _bytes(models["FP32" if name == "TF32" else name]), peaks[rows, name]
            row = {"rows": rows, "tokens": options.length, "engine": name, "ms": seconds * 1e3}
            row["gpu_ms"] = alone[rows][name] * 1e3 if name in alone[rows] else None
            row |= {"weights_mb": weights / 1e6, "peak_mb": None if peak is None else (weights + peak) / 1e6}
            found.append(row)
    columns = ("engine", "ms as called", "ms of the GPU", "rows/s", "MB of weights", "MB at most")
    table = Table("rows × tokens", *columns, box=None)
    for row in found:
        times_of = [_shown(row["ms"], 2), _shown(row["gpu_ms"], 2), f"{row['rows'] / row['ms'] * 1e3:,.0f}"]
        memory = [_shown(row["weights_mb"], 1), _shown(row["peak_mb"], 1)]
        table.add_row(f"{row['rows']} × {row['tokens']}", row["engine"], *times_of, *memory)
    console.print(table)
    return found


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _peak(run: Run, device: torch.device) -> int | None:
    """The peak of the bytes that a run allocates on a GPU, beyond those before the run."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def _built(device: torch.device, layers: int, hidden: int) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": hidden // 64}
    config = BertConfig(**shape, intermediate_size=4 * hidden)
    plain = BertForSequenceClassification(config).eval()
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    settings = resolve("movie", Params()).quantization
    quantize_model(plain, settings)
    freeze(plain)
    with tempfile.TemporaryDirectory() as folder:
        save_packed(plain, Path(folder), Record(quantization=settings))
        packed, int8 = (PackedModel(Path(folder) / FILE_NAME, device)._model for _ in range(2))
    sizes = {name: module.in_features for name, module in plain.named_modules() if hasattr(module, "in_features")}
    for name, module in list(int8.named_modules()):
        if isinstance(module, PackedLinear):
            int8.set_submodule(name, _Int8Linear(module, sizes[name]))
    models: dict[str, nn.Module] = {"kdqat": packed, "int8": int8}
    for name, dtype in (("FP16", torch.float16), ("FP32", torch.float32)):
        dense = BertForSequenceClassification(BertConfig(**shape, intermediate_size=4 * hidden)).eval()
        dense.load_state_dict(state)
        models[name] = dense.to(device, dtype)
    return models


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))


def _tiles(console: Console, device: torch.device, options: argparse.Namespace) -> None:
    from kdqat_cli.engine.gpu.kernels import FEW_ROWS, TILES, Tile, product

    larger = [Tile(256, 128, 8), Tile(128, 64, 4), Tile(64, 128, 8), Tile(32, 32, 4), Tile(16, 64, 4), Tile(16, 16, 1)]
    tiles: list[Tile | None] = [None, *TILES, *larger]
    names = [f"{tile.rows}×{tile.outputs}" if tile else "chosen" for tile in tiles]
    table = Table(
        "inputs → outputs",
        "rows",
        *names,
        box=None,
        title=f"kdqat's product, µs (chosen: no tile up to {FEW_ROWS} rows)",
    )
    of_bert = [(768, 768), (768, 3072), (3072, 768)] if device.type == "cuda" else []
    for columns, outputs in (*of_bert, (options.size, options.size)):
        codes = torch.randint(-1, 2, (outputs, columns), dtype=torch.int8, device=device)
        weights = [pack_two_bits(codes) for _ in range(4)]
        for rows in options.rows:
            x = torch.randint(-127, 128, (rows, columns), dtype=torch.int8, device=device)
            scales = torch.ones(rows, device=device)
            jobs: dict[str, Run] = {}
            for name, tile in zip(names, tiles, strict=True):
                runs: list[Run] = [partial(product, x, scales, weight, 1.0, None, tile) for weight in weights]
                with contextlib.suppress(Exception):  # Triton: too little shared memory for the tile
                    jobs[name] = _graph(runs, device)
            seconds = _measure(jobs, options.rounds, device)
            shown = [f"{seconds[name] * 1e6:.1f}" if name in seconds else "-" for name in names]
            table.add_row(f"{columns} → {outputs}", f"{rows:,}", *shown)
    console.print(table)


def _graph(runs: list[Run], device: torch.device) -> Run:
    """Records all runs as one launch of the GPU; `_measure` divides by their number."""

    def one_by_one() -> None:
        for run in runs:
            run()

    one_by_one()  # compiles, and allocates
    if device.type != "cuda":
        return _Repeated(one_by_one, len(runs))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_by_one()
    return _Repeated(graph.replay, len(runs))


@dataclass(frozen=True)
class _Repeated:
    run: Run
    count: int

    def __call__(self) -> None:
        self.run()


def _recorded(jobs: dict[str, Run], device: torch.device) -> dict[str, Run]:
    """Records the jobs as graphs; leaves out those that wait for the GPU, because they cannot be recorded."""
    graphs: dict[str, Run] = {}
    for name, run in jobs.items():
        with contextlib.suppress(RuntimeError):
            graphs[name] = _graph([run], device)
    return graphs


def _measure(jobs: dict[str, Run], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of one run of each job; the jobs take turns."""
    for run in jobs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, run in jobs.items():
            seconds[name].append(_seconds(run, device) / (run.count if isinstance(run, _Repeated) else 1))
    return {name: statistics.median(times) for name, times in seconds.items()}


def _seconds(run: Run, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    event: Any = torch.cuda.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


if __name__ == "__main__":
    main()
