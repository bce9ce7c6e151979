"""A whole model of BERT-base's shape against torch and ONNX Runtime: `python benchmarks/model.py --help`.

Random weights, since time and memory do not depend on them. Peers: torch FP32 (its own attention), ONNX Runtime FP32
and dynamic int8 on the graph that its transformers optimiser makes. Runs are interleaved, and a ratio is of two runs of
the same round. Memory is what a process of its own holds after its first forward passes, above an interpreter with the
same imports.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SHAPES = [(1, 32), (1, 128), (8, 128)]
PEERS = ["torch FP32", "ORT FP32", "ORT int8"]
IMPORTS = {
    "kdqat": ["kdqat_cli.runtime.engine", "tokenizers"],
    "torch FP32": ["torch", "transformers.models.auto.modeling_auto"],
    "ORT": ["onnxruntime", "tokenizers", "peers"],
}


def main() -> None:
    """Measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each engine")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model")
    parser.add_argument("--folder", type=Path, help="where the models are kept between runs; default: nowhere")
    parser.add_argument("--kernel", nargs="+", help="kernels of ours to measure; default: the fast ones")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what a process of its own is asked for
    options = parser.parse_args()
    if options.memory_of:
        print(_resident(options))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or Path(scratch)
        options.folder.mkdir(parents=True, exist_ok=True)
        if not (options.folder / "int8.onnx").exists():
            _make_models(options)
        _time(options)
        _memory(options)


def _make_models(options: argparse.Namespace) -> None:
    import torch
    from onnxruntime.transformers.optimizer import optimize_model
    from peers import quantize
    from transformers import AutoModelForSequenceClassification, BertConfig

    from kdqat_cli.config import Params, resolve
    from kdqat_cli.packing.hf_model import save_packed
    from kdqat_cli.quantization.layers import freeze
    from kdqat_cli.quantization.model import quantize_model

    torch.manual_seed(0)
    folder, config = options.folder, BertConfig(num_hidden_layers=options.layers)
    # Eager attention is what the optimiser knows how to fuse.
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder / "fp32")
    model.config.return_dict = False
    ids, mask = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        model,
        (ids, mask),
        str(folder / "plain.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes},
        dynamo=False,
    )
    heads, width = config.num_attention_heads, config.hidden_size
    optimize_model(str(folder / "plain.onnx"), "bert", heads, width).save_model_to_file(str(folder / "fp32.onnx"))
    quantize(folder / "fp32.onnx", folder / "int8.onnx")
    settings = resolve("movie", Params()).quantization
    quantize_model(model, settings)
    freeze(model)
    (folder / "packed").mkdir(exist_ok=True)
    save_packed(model, folder / "packed", {"quantization": settings.model_dump()})


def _engine(name: str, options: argparse.Namespace) -> Callable[[Any], Any]:
    """A function of token ids (rows, tokens) → logits."""
    if name == "torch FP32":
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(options.threads)
        model = AutoModelForSequenceClassification.from_pretrained(options.folder / "fp32").eval()

        @torch.inference_mode()
        def by_torch(ids: Any) -> Any:
            return model(input_ids=torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.long)).logits

        return by_torch
    if name.startswith("ORT"):
        from peers import session

        run = session(options.folder / ("fp32.onnx" if name == "ORT FP32" else "int8.onnx"), options.threads)
        return lambda ids: run.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    from kdqat_cli.runtime.engine import Engine

    os.environ["KDQAT_KERNEL"] = name
    engine = Engine.load(options.folder / "packed", options.threads)
    return lambda ids: engine.logits([(row, None) for row in ids.tolist()])


def _tokens(shape: tuple[int, int]) -> Any:
    return np.random.default_rng(0).integers(1000, 30000, shape)


def _time(options: argparse.Namespace) -> None:
    import onnxruntime
    import torch
    from peers import Run, fast_kernels, machine, paired, ratio

    console = Console(width=150)
    console.print(f"{machine()}; torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}")
    console.print(f"{options.layers} layers, {options.threads} threads, {options.rounds} rounds")
    own = options.kernel or fast_kernels()
    engines = {name: _engine(name, options) for name in [*own, *PEERS]}
    table = Table("rows × tokens", "engine", "ms", "min to max", *own, box=None)
    for shape in SHAPES:
        ids = _tokens(shape)
        jobs: dict[str, Run] = {name: partial(run, ids) for name, run in engines.items()}
        for run in jobs.values():
            run()
        seconds = paired(jobs, options.rounds, 0.05)
        for name, times in seconds.items():
            cells = [f"{1e3 * statistics.median(times):.1f}", f"{1e3 * min(times):.1f} to {1e3 * max(times):.1f}"]
            cells += ["{:.2f} ({:.2f} to {:.2f})".format(*ratio(times, seconds[kernel])) for kernel in own]
            table.add_row(f"{shape[0]} × {shape[1]}", name, *cells)
    console.print(table)
    console.print("last columns: how many times that kernel's time, median (and the middle half) of the rounds")


def _memory(options: argparse.Namespace) -> None:
    table = Table("engine", "MB at 1 × 32", "MB at 8 × 128", box=None)
    own = options.kernel or [None]
    names = [name or "kdqat" for name in own] + PEERS
    for name in names:
        command = [sys.executable, __file__, "--memory-of", name, "--folder", str(options.folder)]
        done = subprocess.run(  # noqa: S603 - this very file
            [*command, "--threads", str(options.threads)], capture_output=True, text=True, check=True
        )
        table.add_row(name, *done.stdout.split()[-2:])
    Console(width=150).print(table)


def _resident(options: argparse.Namespace) -> str:
    name = options.memory_of
    for module in IMPORTS["torch FP32" if name == "torch FP32" else "ORT" if name.startswith("ORT") else "kdqat"]:
        importlib.import_module(module)
    empty = _megabytes()
    if name == "kdqat":
        from kdqat_cli.runtime.native import kernels

        name = kernels()[0]
    run = _engine(name, options)
    figures = []
    for shape in (SHAPES[0], SHAPES[-1]):
        for _ in range(3):
            run(_tokens(shape))
        figures.append(f"{_megabytes() - empty:.1f}")
    return " ".join(figures)


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
