"""export: ternary student → packed checkpoint, or a folder for another engine."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.levels import are_trits
from kdqat_cli.names import LEVELS
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.record import Batches, Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.folder import ABOUT, MODEL, output_folder, refuse_inputs
from kdqat_cli.store.run import Stopwatch, versions, write_run
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.data import load_split
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.registry import Task
from kdqat_cli.tasks.text.inference import padded_batches, predict_logits, reader_of
from kdqat_cli.tasks.text.models import Classifier, load_classifier, recorded, size_figures
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE, inputs_of
from kdqat_cli.tasks.text.rows import TaskRows, task_rows

_COMPARED = 10_000  # characters of a text that go through another engine's tokenizer


def export(
    student: str,
    out: Path,
    half: bool = False,
    format_name: str = "packed",
    task: Task | None = None,
    data_dir: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Packs a ternary student, or writes it for another engine.

    `packed` is kdqat's own file, five codes a byte; its logits are the student's by construction. A folder of any
    other format is run on the engine it is for, on the task's dev rows, and is kept only where its labels are the
    student's (exporters/parity.py says how nearly).

    Args:
        student: a folder that `distill` or `quantize` wrote.
        out: receives model/ and run.json; nothing, where the comparison fails.
        half: store what is not ternary as FP16; logits then differ slightly. Not of onnx and gguf.
        format_name: what to write.
        task: gives the dev rows: the one that the student was made for. Not needed for `packed`.
        data_dir: folder of local task data, or None.
        force: replace a result of other settings.

    Returns:
        The folder, bytes of the weights file, bits per weight, ratio to FP32 and the seconds. Of another engine's
        format also its name, `engine` and what it `loses`; `rows` compared, `rows_differing`, the
        `largest_difference` of a logit, and in percent the `student_score` and the export's `score`; of an engine with
        a tokenizer of its own, the `texts` and how many it splits otherwise.

    Raises:
        require(parity, name)
        write_json(folder / ABOUT, record.to_json())
        MissingInputError: no such folder, no data, a package is missing, or the output folder is in use.
    """
    refuse_inputs(out, {"student": student}, (data_dir, task.folder if task else None))
    if format_name == "packed":
        return _pack(student, out, half, force)
    if task is None:
        raise ConfigError(
            f"The format {format_name} is checked on dev rows, and {student} does not say which task it is for.",
            f"kdqat export --format {format_name} --task TASK",
        )
    return _export_foreign(student, out, half, format_name, task, data_dir, force)


def _pack(student: str, out: Path, half: bool, force: bool) -> dict[str, Any]:
    watch = Stopwatch()
    with output_folder(out, force) as work:
        source, sources = _load_student(student)
        folder = work.scratch / MODEL
        folder.mkdir()
        reader = reader_of(source.tokenizer, source.record.row_length)
        if fault := reader.fault(source.model.config.to_dict(), source.record.pairs):
            raise ConfigError(f"The tokenizer of {student} does not fit the model: {fault}", "kdqat distill")
        source.tokenizer.save_pretrained(folder)
        made: dict[str, Any] = {"kind": "packed", "tokenizer": file_digest(folder / TOKENIZER_FILE), "sources": sources}
        # An answer must not depend on batch mates: a scale that a batch shared becomes one scale per token. `evaluate`
        # measures what that changes.
        assert source.record.quantization is not None
        made["quantization"] = source.record.quantization.model_copy(update={"activation_scale": "token"})
        made |= {
            "inputs": inputs_of(source.tokenizer),
            "batches": Batches(keeps_more=source.record.batches.keeps_more),
        }
        record = source.record.model_copy(update=made)
        work.refuse_other(record, half=half)
        save_packed(source.model, folder, record, half)
        figures = size_figures(source.model, folder / FILE_NAME)
        run = write_run(work.scratch, watch, half=half, **figures)
    return {"folder": str(out), **figures, "seconds": run["seconds"]}


def _export_foreign(
    student: str, out: Path, half: bool, format_name: str, task: Task, data_dir: Path | None, force: bool
) -> dict[str, Any]:
    # Here, not above: the exporters load what packing alone does not need.
    from kdqat_cli.exporters.catalogue import FORMATS
    from kdqat_cli.exporters.packages import require_packages
    from kdqat_cli.exporters.parity import compare, require

    watch = Stopwatch()
    spec = FORMATS[format_name]
    if half and not spec.half:
        with_half = ", ".join(name for name, other in FORMATS.items() if other.half)
        raise ConfigError(f"--half has no meaning for --format {format_name}.", f"--format packed, {with_half}")
    require_packages(format_name, spec.packages)
    with output_folder(out, force) as work:
        source, sources = _load_student(student)
        # The student's record, but for `quantization`: kdqat would quantise the folder by it.
        record = Record(
            kind="export",
            format=format_name,
            task=source.record.task,
            task_file=source.record.task_file,
            labels=source.record.labels,
            pairs=source.record.pairs,
            max_length=source.record.max_length,
            inputs=source.record.inputs,
            sources=sources,
            versions=versions(),
        )
        work.refuse_other(record, half=half)
        batches = source.record.batches
        rows = task_rows(task, "dev", data_dir, source.tokenizer, source.record.row_length, batches)
        folder = work.scratch / MODEL
        folder.mkdir()
        spec.write(source.model, source.tokenizer, folder, **({"half": True} if half else {}))
        name = f"The {format_name} export of {student}"
        tokens = {}
        if spec.tokens is not None:
            tokens = _compare_tokens(spec.tokens, folder, source, load_split(task, "dev", data_dir), name)
        expected = predict_logits(source.model, rows.rows, source.tokenizer, batches)
        found = _foreign_logits(spec.logits, folder, rows, expected.shape)
        parity = compare(expected, found)
        require(parity, name)
        write_json(folder / ABOUT, record.to_json())
        figures = {
            **size_figures(source.model, folder / spec.file),
            "rows": parity.rows,
            "rows_differing": parity.differing,
            "largest_difference": round(parity.largest, 6),
            "student_score": compute_metrics(task, expected, rows.labels)["score"],
            "score": compute_metrics(task, found, rows.labels)["score"],
            **tokens,
        }
        run = write_run(work.scratch, watch, half=half, **figures)
    told = {"folder": str(out), "format": format_name, "engine": spec.engine, "loses": spec.loses}
    return {**told, **figures, "seconds": run["seconds"]}


def _load_student(student: str) -> tuple[Classifier, dict[str, str | None]]:
    """The student, and the hashes of what it was made from and of itself."""
    record = recorded(student)
    kind, made = record.kind, record.quantization
    if kind == "packed":
        raise ConfigError(
            f"{student} is already packed; every format is exported from the student itself.",
            "kdqat export --student with the folder that `kdqat distill` or `kdqat quantize` wrote",
        )
    if Path(student).exists() and (kind not in ("student", "ternary") or made is None):
        what = {"teacher": "a teacher", "export": "an export for another engine"}.get(kind, "a plain model")
        raise ConfigError(
            f"{student} holds {what}; only a student with ternary weights can be exported.",
            f"kdqat distill --task TASK --teacher {student}",
        )
    if made is not None and not are_trits(LEVELS[made.weights]):
        raise ConfigError(
            f"{student} holds {made.weights} weights; only ternary weights can be exported.",
            "kdqat distill --weights ternary",
        )
    source = load_classifier(student, "kdqat distill")
    if source.weights is None:
        raise MissingInputError(f"{student} holds its weights in several files; kdqat writes one.", "kdqat distill")
    return source, source.record.sources | {"student": file_digest(source.weights)}


def _compare_tokens(tokens: Any, folder: Path, source: Classifier, rows: Dataset, name: str) -> dict[str, int]:
    """Texts that the engine's own tokenizer splits otherwise, of the dev rows; added tokens must all be found."""
    from kdqat_cli.exporters.gguf_vocabulary import added_tokens
    from kdqat_cli.exporters.parity import require_tokens

    added = added_tokens(source.tokenizer)
    whole = [*rows["text"], *(rows["pair"] if "pair" in rows.column_names else [])]
    texts = [text[:_COMPARED] for text in whole]  # no tokenizer has to take a text of megabytes
    expected = source.tokenizer([*added, *texts], verbose=False)["input_ids"]
    found = tokens(folder, [*added, *texts])
    require_tokens(added, expected[: len(added)], found[: len(added)], name, bound=0.0)
    differing = require_tokens(texts, expected[len(added) :], found[len(added) :], name)
    return {"texts": len(texts), "texts_split_otherwise": differing}


def _foreign_logits(logits: Any, folder: Path, rows: TaskRows, shape: tuple[int, ...]) -> Any:
    # Every row as long as the longest: among rows of like length a graph that has lost its mask is not noticed.
    batching = Batches(pad_to=max(rows.rows["length"]))
    places, batches = [], []
    for indices, padded in padded_batches(rows.rows, rows.tokenizer, batching):
        places += indices
        batches.append({name: values.numpy() for name, values in padded.items()})
    found = np.empty(shape, dtype=np.float32)
    found[places] = np.concatenate(logits(folder, batches))
    return found
