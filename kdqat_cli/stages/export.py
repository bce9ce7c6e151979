"""export: student → packed checkpoint, or a folder for another engine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from datasets import Dataset

from kdqat_cli.cards.card import card
from kdqat_cli.cards.facts import Measured, Score, foreign_facts, packed_facts
from kdqat_cli.config import CodecName
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.levels import are_trits
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.record import Batches, Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import Compared, Size, read_run
from kdqat_cli.store.folder import ABOUT, MODEL, RUN, output_folder, refuse_inputs
from kdqat_cli.store.run import Stopwatch, versions, write_run
from kdqat_cli.store.seal import CARD
from kdqat_cli.store.writing import write_json, write_text
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.records import model_folder, recorded, require_text, size_figures
from kdqat_cli.tasks.registry import kind_named
from kdqat_cli.tasks.task import Task
from kdqat_cli.tasks.text.data import load_split
from kdqat_cli.tasks.text.head import threshold_of
from kdqat_cli.tasks.text.inference import padded_batches, predict_logits
from kdqat_cli.tasks.text.kind import TEXT
from kdqat_cli.tasks.text.models import Classifier
from kdqat_cli.tasks.text.rows import TaskRows, task_rows
from kdqat_cli.tasks.text.schema import TextTask

if TYPE_CHECKING:
    from kdqat_cli.exporters.catalogue import Format
    from kdqat_cli.exporters.parity import Batch, Logits

_COMPARED = 10_000  # largest number of characters of a text for another engine's tokenizer


class Exported(Size, Compared):
    """The result of `export`; for `packed` it has only size, folder and seconds."""

    folder: str
    """Folder of the model."""
    format: NotRequired[str]
    """Name of the other engine's format."""
    engine: NotRequired[str]
    """The program that loads it."""
    loses: NotRequired[str]
    """How its numbers differ from the student's."""
    seconds: float
    """Wall-clock seconds."""


def export(
    student: str,
    out: Path,
    half: bool = False,
    format_name: str = "packed",
    task: Task | None = None,
    data_dir: Path | None = None,
    force: bool = False,
    codec: CodecName | None = None,
) -> Exported:
    """Packs a student, or writes a ternary student for another engine.

    `packed` is kdqat's own file, whose logits equal the student's. An export to any other format runs on its own engine
    on the task's dev rows. It is kept only if its labels agree with the student's (exporters/parity.py has the bound).

    Args:
        student: a folder that `distill` or `quantize` wrote; for other formats than `packed` also a packed folder.
        out: output folder for model/ and run.json; nothing is written if the comparison fails.
        half: store scales and unquantised tensors as FP16; logits then differ slightly. Not for onnx and gguf.
        format_name: name of the format.
        task: task of the dev rows, for which the student was made; not needed for `packed`.
        data_dir: folder of local task data, or None.
        force: replace a result of other settings.
        codec: for `packed`, how levels are stored; None: trits for a ternary student, else `auto`.

    Raises:
        ConfigError: the format does not support the model, or an option does not fit the format; or `out` is an input,
            or has files that kdqat did not write, or a result of other settings.
        GateError: the labels of the export differ from the student's.
        MissingInputError: the student, the data or a package is missing, or the output folder is in use.
    """
    refuse_inputs(out, {"student": student}, (data_dir, task.folder if task else None))
    if format_name == "packed":
        return _pack(student, out, half, force, codec)
    rows_of = _text_task(student, format_name, codec, task)
    return _export_foreign(student, out, half, format_name, rows_of, data_dir, force)


def _text_task(student: str, format_name: str, codec: CodecName | None, task: Task | None) -> TextTask:
    """The task whose rows are used to check another engine's format.

    Raises:
        ConfigError: there is no task of texts, or an option does not fit the format.
    """
    if codec is not None:
        raise ConfigError(f"--codec has no meaning for --format {format_name}.", "--format packed")
    if task is None:
        raise ConfigError(
            f"The format {format_name} is checked on dev rows, and {student} does not say which task it is for.",
            f"kdqat export --format {format_name} --task TASK",
        )
    if not isinstance(task, TextTask):
        raise ConfigError(
            f"The format {format_name} takes text models; the rows of task {task.name} are of the kind {task.kind}.",
            "kdqat export --format packed",
        )
    return task


def _pack(student: str, out: Path, half: bool, force: bool, codec: CodecName | None) -> Exported:
    watch = Stopwatch()
    with output_folder(out, force) as work:
        kind = kind_named(_student_record(student).rows_kind)
        source, sources = _load(kind, student)
        folder = work.scratch / MODEL
        folder.mkdir()
        record = _packed_record(source.record, kind.write_reader(source, folder, student), sources)
        work.refuse_other(record, half=half, codec=codec)
        kind.pack(source, folder, record, half, codec)
        size = size_figures(source.model, folder / FILE_NAME)
        write_text(folder / CARD, card(packed_facts(record, folder, size, _measured(student, source, half))))
        run = write_run(work.scratch, watch, half=half, codec=codec, **size)
    return {
        "folder": str(out),
        "parameters": size["parameters"],
        "bytes": size["bytes"],
        "bits_per_weight": size["bits_per_weight"],
        "ratio_to_fp32": size["ratio_to_fp32"],
        "seconds": run.seconds,
    }


def _packed_record(student: Record, reader: dict[str, object], sources: dict[str, str | None]) -> Record:
    """The student's record, with the fields of a packed model."""
    assert student.quantization is not None
    # An answer must not depend on batch mates, so a scale per batch becomes one scale per token. `evaluate` measures
    # the effect.
    quantization = student.quantization.model_copy(update={"activation_scale": "token"})
    made = {"kind": "packed", "sources": sources, "quantization": quantization}
    return student.model_copy(update=made | reader)


def _export_foreign(
    student: str, out: Path, half: bool, format_name: str, task: TextTask, data_dir: Path | None, force: bool
) -> Exported:
    watch = Stopwatch()
    spec = _format(format_name, half)
    with output_folder(out, force) as work:
        source, sources = _load_ternary(student)
        record = _foreign_record(source.record, format_name, sources)
        work.refuse_other(record, half=half)
        folder = work.scratch / MODEL
        folder.mkdir()
        spec.write(source.model, source.tokenizer, folder, **({"half": True} if half else {}))
        compared = _compare(spec, folder, source, task, data_dir, f"The {format_name} export of {student}")
        write_json(folder / ABOUT, record.to_json())
        size = size_figures(source.model, folder / spec.file)
        write_text(folder / CARD, card(foreign_facts(record, folder, size, spec, compared)))
        run = write_run(work.scratch, watch, half=half, **size, **compared)
    return {
        "folder": str(out),
        "format": format_name,
        "engine": spec.engine,
        "loses": spec.loses,
        **size,
        **compared,
        "seconds": run.seconds,
    }


def _format(name: str, half: bool) -> "Format":
    """A format, after a check that its packages are installed and that it supports `half` if wanted."""
    # Imported here, because the exporters load packages that packing does not need.
    from kdqat_cli.exporters.catalogue import FORMATS
    from kdqat_cli.exporters.packages import require_packages

    spec = FORMATS[name]
    if half and not spec.half:
        with_half = ", ".join(name for name, other in FORMATS.items() if other.half)
        raise ConfigError(f"--half has no meaning for --format {name}.", f"--format packed, {with_half}")
    require_packages(name, spec.packages)
    return spec


def _foreign_record(student: Record, format_name: str, sources: dict[str, str | None]) -> Record:
    """The student's record without `quantization`, because with it kdqat would quantise the folder again."""
    batches = Batches(keeps_more=student.batches.keeps_more)
    made = {"kind": "export", "format": format_name, "sources": sources, "versions": versions()}
    return student.model_copy(update={**made, "quantization": None, "batches": batches})


def _compare(
    spec: "Format", folder: Path, source: Classifier, task: TextTask, data_dir: Path | None, name: str
) -> Compared:
    """Runs an export on its engine, and the student, on the dev rows; both must give the same labels."""
    from kdqat_cli.exporters.parity import compare, require

    batches = source.record.batches
    rows = task_rows(task, "dev", data_dir, source.tokenizer, source.record.row_length, batches)
    expected = predict_logits(source.model, rows.rows, source.tokenizer, batches)
    found = _foreign_logits(spec.logits, folder, rows, expected.shape)
    threshold = threshold_of(source.model.config)
    parity = compare(expected, found, threshold)
    require(parity, name)
    compared: Compared = {
        "rows": parity.rows,
        "rows_differing": parity.differing,
        "largest_difference": round(parity.largest, 6),
        "student_score": compute_metrics(task, expected, rows.labels, threshold)["score"],
        "score": compute_metrics(task, found, rows.labels, threshold)["score"],
    }
    if spec.tokens is not None:
        texts = load_split(task, "dev", data_dir)
        compared["texts"], compared["texts_split_otherwise"] = _compare_tokens(spec.tokens, folder, source, texts, name)
    return compared


def _student_record(student: str, packed: bool = False) -> Record:
    """The record of a student that can be exported; with `packed`, also that of a packed student.

    Raises:
        ConfigError: the model is not such a student.
    """
    record = recorded(student, "kdqat distill --task TASK")
    kind, made = record.kind, record.quantization
    if kind == "packed" and not packed:
        raise ConfigError(
            f"{student} is already packed; other engines' formats can be written from it.",
            f"kdqat export --student {student} --format with a format that `kdqat ls formats` lists",
        )
    if Path(student).exists() and (kind not in ("student", "ternary", "packed") or made is None):
        what = {"teacher": "a teacher", "export": "an export for another engine"}.get(kind, "a plain model")
        raise ConfigError(
            f"{student} holds {what}; only a student can be exported.",
            f"kdqat distill --task TASK --teacher {student}",
        )
    if made is not None and made.weights == "fp32":
        raise ConfigError(
            f"{student} is not quantised; there is nothing to pack.", f"kdqat quantize --teacher {student}"
        )
    return record


def _load_ternary(student: str) -> tuple[Classifier, dict[str, str | None]]:
    """A text student with ternary weights, packed or not; and the hashes of its sources and of itself."""
    made = _student_record(student, packed=True).quantization
    if made is not None and not are_trits(made.levels):
        raise ConfigError(
            f"{student} holds {made.weights} weights; another engine's format takes ternary weights only.",
            "kdqat export, no --format; or kdqat distill --weights ternary",
        )
    require_text(student, "this format")
    return _load(TEXT, student)


def _load(kind: Any, student: str) -> tuple[Any, dict[str, str | None]]:
    """A student; and the hashes of its sources and of itself."""
    source = kind.load(student, "kdqat distill")
    if source.weights is None:
        raise MissingInputError(f"{student} holds its weights in several files; kdqat writes one.", "kdqat distill")
    name = "packed" if source.record.kind == "packed" else "student"
    return source, source.record.sources | {name: file_digest(source.weights)}


def _measured(student: str, source: Any, half: bool) -> Measured | None:
    """The student's dev score, for the card of its packed file; None: it is not stored beside the student.

    The packed file has the same score, unless floats are stored in 16 bits or a batch shares an activation scale.
    """
    model = model_folder(student)
    run = model.parent / RUN
    if model.name != MODEL or not run.is_file() or (score := read_run(run).score) is None:
        return None
    made = source.record.quantization
    own = not half and (made.activations == "fp32" or made.activation_scale == "token")
    whose = "the student, whose answers the packed file gives" if own else "the student that was packed, not this file"
    return Measured([Score("score", [score])], [source.record.seed], whose, own)


def _compare_tokens(
    tokens: Callable[[Path, list[str]], list[list[int]]], folder: Path, source: Classifier, rows: Dataset, name: str
) -> tuple[int, int]:
    """The texts of the dev rows, and how many the engine's tokenizer splits differently; added tokens must not."""
    from kdqat_cli.exporters.gguf_vocabulary import added_tokens
    from kdqat_cli.exporters.parity import require_tokens

    added = added_tokens(source.tokenizer)
    whole = [*rows["text"], *(rows["pair"] if "pair" in rows.column_names else [])]
    texts = [text[:_COMPARED] for text in whole]  # cut, because tokenizers are slow on texts of megabytes
    expected = source.tokenizer([*added, *texts], verbose=False)["input_ids"]
    found = tokens(folder, [*added, *texts])
    require_tokens(added, expected[: len(added)], found[: len(added)], name, bound=0.0)
    differing = require_tokens(texts, expected[len(added) :], found[len(added) :], name)
    return len(texts), differing


def _foreign_logits(
    logits: "Callable[[Path, list[Batch]], list[Logits]]", folder: Path, rows: TaskRows, shape: tuple[int, ...]
) -> "Logits":
    # All rows are padded to the longest, because without padding a lost attention mask would not be noticed.
    batching = Batches(pad_to=max(rows.rows["length"]))
    places, batches = [], []
    for indices, padded in padded_batches(rows.rows, rows.tokenizer, batching):
        places += indices
        batches.append({name: values.numpy() for name, values in padded.items()})
    found = np.empty(shape, dtype=np.float32)
    found[places] = np.concatenate(logits(folder, batches))
    return found
