"""Scores and times each export of a student on its engine: `python benchmarks/exports.py STUDENT ...`.

The score and the number of different labels are those that `kdqat export` measures on the dev rows. The time is for dev
rows in batches of 8 rows of similar length, without loading. The forms take turns, and a ratio compares with kdqat's
engine in the same round. A form that is not possible (because a package is missing, or llama.cpp does not support
sentence pairs) is reported and left out.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from kdqat_cli.bench.machine import processor
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.engine.student import native_student
from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.exporters.catalogue import FORMATS
from kdqat_cli.exporters.parity import Logits, compare
from kdqat_cli.native.library import KERNEL_VARIABLE, TORCH
from kdqat_cli.output import Output
from kdqat_cli.record import Batches
from kdqat_cli.stages.export import export
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.inference import padded_batches, predict_logits
from kdqat_cli.tasks.text.models import Classifier, load_classifier
from kdqat_cli.tasks.text.rows import TaskRows, task_rows

Batch = dict[str, Any]
Run = Callable[[list[Batch]], object]


def by_torch(student: Classifier, batches: list[Batch]) -> None:
    """The student itself, in torch."""
    with torch.inference_mode():
        for batch in batches:
            student.model(**{name: torch.from_numpy(values) for name, values in batch.items()})


def by_engine(engine: Engine | NativeModel, batches: list[Batch]) -> None:
    """The student or its packed file, in kdqat's engine."""
    for batch in batches:
        lengths = batch["attention_mask"].sum(1).tolist()
        types: Any = batch.get("token_type_ids", batch["attention_mask"])
        rows = zip(batch["input_ids"], types, lengths, strict=True)
        engine.logits([(ids[:length].tolist(), kinds[:length].tolist()) for ids, kinds, length in rows])


def in_torch(loaded: Classifier, rows: TaskRows) -> Logits:
    """The dev logits (rows, labels) from torch, if the engine does not serve the model."""
    os.environ[KERNEL_VARIABLE] = TORCH
    logits = predict_logits(loaded.model, rows.rows, rows.tokenizer, rows.batches)
    del os.environ[KERNEL_VARIABLE]
    return logits


def forms(
    source: str, rows: TaskRows, data_dir: Path | None, scratch: Path, output: Output
) -> dict[str, tuple[Any, Run]]:
    """Name → the known facts of a form, and the function that runs it."""
    student, task = load_classifier(source), rows.task
    served = native_student(student.model)
    if served is None:
        raise ConfigError(f"The engine does not serve {source} here: there is nothing to compare with.")
    evaluated = predict_logits(student.model, rows.rows, rows.tokenizer, rows.batches)

    def scored(logits: Logits) -> dict[str, float]:
        parity = compare(evaluated, logits)
        score = compute_metrics(task, logits, rows.labels)["score"]
        return {"score": score, "labels that differ": parity.differing, "largest difference": parity.largest}

    size = student.weights.stat().st_size / 1e6 if student.weights else None
    found: dict[str, tuple[Any, Run]] = {
        "student": ({"MB": size, **scored(evaluated)}, partial(by_engine, served)),
        "student, torch": ({"MB": size, **scored(in_torch(student, rows))}, partial(by_torch, student)),
    }
    for name in ("packed", *FORMATS):
        out = scratch / name
        output.remark(f"exporting {name}")
        try:
            told = export(source, out, format_name=name, task=task, data_dir=data_dir)
        except KdqatError as error:
            output.remark(f"{name} is left out: {error.sentence}")
            continue
        row = {"MB": told["bytes"] / 1e6}
        if name == "packed":
            packed = load_classifier(out)
            logits = predict_logits(packed.model, rows.rows, rows.tokenizer, rows.batches)
            found[name] = {**row, **scored(logits)}, partial(by_engine, Engine.load(out / "model"))
            found["packed, torch"] = {**row, **scored(in_torch(packed, rows))}, partial(by_torch, packed)
        else:
            row |= {"score": told["score"], "labels that differ": told["rows_differing"]}
            row |= {"largest difference": told["largest_difference"]}
            found[name] = row, partial(FORMATS[name].logits, out / "model")
    return found


def milliseconds(run: Run, batches: list[Batch]) -> float:
    """Milliseconds per row without loading: the time of all batches minus the time of the first batch alone."""
    spent = []
    for part in (batches[:1], batches):
        start = time.perf_counter()
        run(part)
        spent.append(time.perf_counter() - start)
    rows = sum(len(batch["input_ids"]) for batch in batches[1:])
    return 1000 * (spent[1] - spent[0]) / rows


def main() -> None:
    """Measures, and prints a table for each student."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("students", nargs="+", help="folders that `kdqat distill` wrote")
    parser.add_argument("--data-dir", type=Path, help="folder of local task data")
    parser.add_argument("--batches", type=int, default=20, help="batches of 8 rows per turn")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each form")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    output = Output()
    for source in options.students:
        student = load_classifier(source)
        task = load_text_task(student.record.task or "")
        rows = task_rows(task, "dev", options.data_dir, student.tokenizer, student.record.row_length)
        padded = [batch for _, batch in padded_batches(rows.rows, student.tokenizer, Batches(size=8))]
        batches = [
            {name: values.numpy() for name, values in batch.items()}
            for batch in padded[:: -(-len(padded) // options.batches)]
        ]
        with tempfile.TemporaryDirectory() as scratch:
            found = forms(source, rows, options.data_dir, Path(scratch), output)
            spent: dict[str, list[float]] = {name: [] for name in found}
            for _ in range(options.rounds):
                for name, (_, run) in found.items():
                    spent[name].append(milliseconds(run, batches))
        table = []
        for name, (row, _) in found.items():
            ratios = [mine / own for mine, own in zip(spent[name], spent["packed"], strict=True)]
            speed = {"ms a row": statistics.median(spent[name]), "of the engine's": statistics.median(ratios)}
            table.append({"form": name, **row, **speed})
        output.rows(table, title=f"{source}, {len(rows.rows)} dev rows; {processor()}, threads {options.threads}")


if __name__ == "__main__":
    main()
