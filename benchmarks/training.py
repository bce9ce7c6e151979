"""One distillation step beside its unavoidable parts, on random weights: `python benchmarks/training.py --help`.

The parts are a plain teacher's forward pass, and a plain student's forward pass, backward pass and AdamW step, in the
same precision and at the same shapes, with transformers' sdpa attention. Rounds are interleaved, and the ratio is the
median of the rounds' ratios. On a CPU the time is processor time, so that other programs have little effect; on a GPU
it is wall-clock time. Peak memory is measured for each side alone: on a CPU for its process, with Python and torch; on
a GPU for torch's allocations. TF32 is FP32 whose matrix products are rounded by a GPU's tensor cores.

`straightforward` is a simple implementation of the step (straightforward.py), in FP32.

`--as-avx2` hides AVX-512, VNNI and AMX.

With --data-dir there is a second table: examples per second on the real lengths of a task's rows, in batches of similar
length and in batches padded to the task's full length. Ratios compare with the straightforward step on padded batches.
"""

import argparse
import gc
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import avx2_machine
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from straightforward import step_of
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from kdqat_cli.distillation.losses import LOSSES, DistillationLoss
from kdqat_cli.distillation.objective import OnTeacher
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import load_recipe
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.rows import task_rows
from kdqat_cli.training.memory import keep_freed_memory
from kdqat_cli.training.optimizers import optimizer_of

Step = Callable[[dict[str, Tensor]], None]

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BASE: dict[str, int] = {}  # the default sizes of BertConfig
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SHAPES: dict[str, tuple[dict[str, int], int, int]] = {
    "minilm-16x128": (MINILM, 16, 128),
    "minilm-32x128": (MINILM, 32, 128),
    "base-16x128": (BASE, 16, 128),
    "base-32x128": (BASE, 32, 128),
    "large-32x128": (LARGE, 32, 128),  # for a GPU
    "tiny-2x8": (TINY, 2, 8),  # for a trial run
}
PARTS = "parts"
STRAIGHT = "straightforward"


def products_of(device: str, precision: str) -> torch.autocast:
    """The context in which a model computes in a recipe's precision."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def model_of(sizes: dict[str, int], device: str) -> BertForSequenceClassification:
    """A classifier in eval mode with random weights, drawn on its device: a CPU takes seconds for BERT-large."""
    with torch.device(device):
        return BertForSequenceClassification(BertConfig(**sizes)).eval()


def in_tf32(step: Step) -> Step:
    """The step with TF32 products, forward and backward."""

    def with_tensor_cores(batch: dict[str, Tensor]) -> None:
        torch.set_float32_matmul_precision("high")
        step(batch)
        torch.set_float32_matmul_precision("highest")

    return with_tensor_cores


def plain_step(sizes: dict[str, int], device: str, precision: str) -> Step:
    """Teacher's forward and student's step without any distillation."""
    products = products_of(device, precision)
    teacher = model_of(sizes, device)
    teacher.set_attn_implementation("sdpa")
    student = deepcopy(teacher).train()
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)

    def step(batch: dict[str, Tensor]) -> None:
        with products, torch.no_grad():
            teacher(**batch)
        with products:
            loss: Any = student(**batch).logits.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def kdqat_step(sizes: dict[str, int], device: str, recipe: str, name: str, precision: str) -> Step:
    """The step of `kdqat distill`."""
    settings = load_recipe(recipe)
    loss = DistillationLoss(settings.distillation.model_copy(update={"loss": name}))
    teacher = model_of(sizes, device)
    student = deepcopy(teacher).train()
    quantize_model(student, settings.quantization)
    use_kdqat_attention(teacher)
    optimizer: Any = optimizer_of(student, settings.student)
    objective = OnTeacher(student, teacher, loss, "bf16" if precision == "bf16" else "fp32")

    def step(batch: dict[str, Tensor]) -> None:
        labels = torch.zeros(len(batch["input_ids"]), dtype=torch.long)  # labels have weight 0 in these losses
        counted = batch | {"counted": batch["attention_mask"], "labels": labels}
        total: Any = torch.stack(list(objective.terms(student, counted).values())).sum()
        total.backward()
        if settings.student.optimizer == "adamw":  # the other optimiser clips by itself
            torch.nn.utils.clip_grad_norm_(student.parameters(), settings.student.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def side_of(label: str, sizes: dict[str, int], device: str) -> Step:
    """The step of a label: `straightforward`, or `parts` and precision, or recipe, loss and precision."""
    if label == STRAIGHT:
        return step_of(sizes, device)
    words = label.split()
    step = plain_step(sizes, device, words[1]) if words[0] == PARTS else kdqat_step(sizes, device, *words)
    return in_tf32(step) if words[-1] == "tf32" else step


def batch_of(lengths: list[int], length: int, device: str) -> dict[str, Tensor]:
    """A batch of random rows of these lengths, padded to `length`."""
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": (torch.randint(1000, 20000, mask.shape) * mask).to(device),
        "attention_mask": mask.to(device),
    }


def seconds(step: Step, batches: list[dict[str, Tensor]], device: str) -> float:
    """The total seconds of one step per batch."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    for batch in batches:
        step(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(label: str, shape: str, device: str, threads: int) -> float:
    """Peak memory in GB of three steps of one side: of the process on a CPU, of torch's allocations on a GPU."""
    if device == "cuda":
        return cuda_peak(label, shape)
    command = [sys.executable, __file__, "--peak-of", label, "--shapes", shape]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def cuda_peak(label: str, shape: str) -> float:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    three_steps(label, shape, "cuda")
    most = torch.cuda.max_memory_allocated() - before
    gc.collect()  # the hooks of a model refer to it, so only the garbage collector frees it
    torch.cuda.empty_cache()
    return most / 1e9


def three_steps(label: str, shape: str, device: str) -> None:
    sizes, rows, length = SHAPES[shape]
    step = side_of(label, sizes, device)
    for _ in range(3):
        step(batch_of([length] * rows, length, device))


def parts_of(label: str) -> str:
    """The label of the parts of a label's step."""
    return f"{PARTS} {'fp32' if label == STRAIGHT else label.split()[-1]}"


def compare(shape: str, labels: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures every recipe, loss and precision of a shape beside its parts.

    Returns:
        For each: shape, label, seconds of the step and of the parts, their ratio and its range over the rounds, and
        peak memory in GB of both (null if not measured).
    """
    device = options.device
    sizes, rows, length = SHAPES[shape]
    # This comes first, because a process starts with the peak memory of its parent.
    peaks: dict[str, float | None] = {
        label: peak(label, shape, device, options.threads) if options.peaks else None
        for label in dict.fromkeys([*map(parts_of, labels), *labels])
    }
    whole = [batch_of([length] * rows, length, device)]
    records = []
    for label in track(labels, shape, console=Console(stderr=True), transient=True):
        step, parts = (side_of(side, sizes, device) for side in (label, parts_of(label)))
        for side in (step, parts):
            seconds(side, whole, device)
        pairs = [(seconds(step, whole, device), seconds(parts, whole, device)) for _ in range(options.rounds)]
        ratios = [here / there for here, there in pairs]
        here, there = (statistics.median(side) for side in zip(*pairs, strict=True))
        times = {"seconds": here, "parts_seconds": there, "ratio": statistics.median(ratios)}
        times |= {"lowest_ratio": min(ratios), "highest_ratio": max(ratios)}
        records.append(
            {"shape": shape, "label": label} | times | {"gb": peaks[label], "parts_gb": peaks[parts_of(label)]}
        )
        del step, parts
        gc.collect()
    return records


def steps_table(records: list[dict[str, Any]]) -> Table:
    """The records of `compare`."""
    table = Table(
        "shape", "recipe, loss, precision", "s a step", "s of the parts", "ratio", "min to max", "GB", "of the parts"
    )
    table.box = None
    for record in records:
        spread = f"{record['lowest_ratio']:.2f} to {record['highest_ratio']:.2f}"
        times = [f"{record['seconds']:.3f}", f"{record['parts_seconds']:.3f}", f"{record['ratio']:.2f}", spread]
        memory = [f"{record['gb']:.2f}", f"{record['gb'] / record['parts_gb']:.2f}"] if record["gb"] else ["-", "-"]
        table.add_row(record["shape"], record["label"], *times, *memory)
    return table


def lengths_table(name: str, options: argparse.Namespace) -> Table:
    """Examples per second on real lengths of a task's rows. Weights are random: time does not depend on them."""
    task = load_text_task(name)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    lengths: list[int] = list(task_rows(task, "train", options.data_dir, tokenizer, task.max_length).rows["length"])
    sizes, rows, _ = SHAPES[options.shapes[0]]
    draw = random.Random(0)  # noqa: S311
    drawn = draw.sample(lengths, min(len(lengths), rows * 50))  # as many rows as are sorted at a time
    grouped = sorted(drawn)
    batches = [grouped[start : start + rows] for start in range(0, len(grouped) - rows + 1, rows)]
    chosen = draw.sample(batches, min(len(batches), options.batches))
    padded = [draw.sample(drawn, rows) for _ in chosen]
    fixed = [batch_of(part, task.max_length, options.device) for part in padded]
    like = [batch_of(part, max(part), options.device) for part in chosen]
    works = {f"padded to {task.max_length}": fixed, "like lengths": like}
    rates: dict[tuple[str, str], list[float]] = {}
    parts = sorted(set(map(parts_of, options.labels)))
    steps = {label: side_of(label, sizes, options.device) for label in [STRAIGHT, *parts, *options.labels]}
    for step in steps.values():
        step(fixed[0])
    for _ in range(options.rounds):
        for (label, step), (kind, work) in itertools.product(steps.items(), works.items()):
            rates.setdefault((label, kind), []).append(rows * len(work) / seconds(step, work, options.device))
    base = rates[STRAIGHT, f"padded to {task.max_length}"]
    table = Table("task", "step", "batches", "examples a second", "ratio", "min to max", box=None)
    for (label, kind), measured in rates.items():
        ratios = [here / there for here, there in zip(measured, base, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle = f"{statistics.median(measured):.1f}", f"{statistics.median(ratios):.2f}"
        table.add_row(name, label, kind, *middle, spread)
    return table


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:3])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["map+output"])
    parser.add_argument("--recipes", nargs="+", default=["paper", "clean"], help="names or files")
    parser.add_argument(
        "--precisions", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32"], help="of both sides"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data-dir", type=Path, help="folder of local task data; adds the second table")
    parser.add_argument("--tasks", nargs="+", default=["rte", "sst2"], help="of the second table")
    parser.add_argument("--tokenizer", default=".", help="hub id or folder of the second table's tokenizer")
    parser.add_argument("--batches", type=int, default=12, help="batches of a round of the second table")
    parser.add_argument("--peaks", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory")
    parser.add_argument("--json", type=Path, help="file for the first table's numbers")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return avx2_machine.parse(parser)


def main() -> None:
    """Measures, and prints the tables."""
    options = parsed()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    if options.peak_of:
        three_steps(options.peak_of, options.shapes[0], options.device)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return
    console = Console(width=120)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else avx2_machine.machine()
    console.print(f"{machine}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds")
    options.labels = list(map(" ".join, itertools.product(options.recipes, options.losses, options.precisions)))
    labels = [STRAIGHT, *options.labels]
    records: list[dict[str, Any]] = []
    for shape in options.shapes:
        records += compare(shape, labels, options)
        if options.json:  # written after each shape, because the next one may not fit the memory
            result = {"machine": machine, "torch": torch.__version__, "rounds": options.rounds, "steps": records}
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(steps_table(records))
    if options.data_dir:
        for task in options.tasks:
            console.print(lengths_table(task, options))


if __name__ == "__main__":
    main()
