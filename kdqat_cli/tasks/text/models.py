"""Loading and saving classifiers: hub ids, plain folders, kdqat's own folders, packed folders.

The parts of it: `weights.py` loads weights whole, `tokenizers.py` fits a tokenizer to its encoder, `labels.py` says
what the outputs mean. Everything that can be told from the small files is checked before the weights are read.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.config import Settings
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import is_there, read_bytes, text_of
from kdqat_cli.hub import CONFIG, refuse_hollow
from kdqat_cli.networks.loading import Source, load_config, load_encoder_config, load_weights
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint
from kdqat_cli.packing.codes_file import load_codes, save_codes
from kdqat_cli.record import BY_LENGTH, Batches, Kind, Record, read_record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import Size
from kdqat_cli.store.folder import ABOUT, MODEL
from kdqat_cli.store.places import EMBEDDED, teacher_folder
from kdqat_cli.store.run import versions
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.data import ASSETS
from kdqat_cli.tasks.registry import Task
from kdqat_cli.tasks.text.head import align_labels, check_outputs, label_config
from kdqat_cli.tasks.text.reader import inputs_of, packed_reader
from kdqat_cli.tasks.text.rows import row_length
from kdqat_cli.tasks.text.tokenizers import load_tokenizer

_WEIGHTS = "model.safetensors"
_LARGEST_RECORD = 2**24  # bytes
_AGAIN = {"teacher": "finetune-teacher", "ternary": "quantize", "student": "distill", "export": "export"}
_QUANTIZED = {
    "ternary": "a ternary student",
    "student": "a student",
    "packed": "a packed student",
    "export": "an export",
}


@dataclass
class Classifier:
    """A loaded classifier.

    Attributes:
        model: in eval mode, FP32, on the GPU where there is one.
        tokenizer: its tokenizer.
        weights: the file of its weights; None for a hub id.
        record: what the stage that made it recorded; of kind `plain` where none of ours made it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: Path | None
    record: Record


def load_classifier(source: str | Path, fix: str | None = None) -> Classifier:
    """A classifier from a hub id, a folder (or the `model` folder in it), or a packed file.

    Args:
        source: hub id, folder or packed file.
        fix: the command that makes the folder, for the error.

    Raises:
        ConfigError: a model that kdqat does not take: of another architecture, say, or with several labels at once.
        MissingInputError: nothing to load there, or a file is missing, damaged or does not fit the others.
    """
    folder = _model_folder(source)
    if (folder / FILE_NAME).exists():
        return _load_packed(folder)
    record = _read_record(folder)
    place = Source.find(str(folder) if folder.is_dir() else str(source), fix)
    config = load_config(place)
    check_outputs(config, place.location)
    tokenizer = load_tokenizer(place, config, record.inputs)
    _check_length(record, tokenizer, place.location)
    again = None if record.kind == "plain" else f"kdqat {_AGAIN[record.kind]}, to make it again"
    model = load_weights(place, config, again=again)
    if record.quantization is not None:
        quantize_model(model, record.quantization)
        load_codes(model, folder, again or "kdqat distill")
    weights = folder / _WEIGHTS
    return Classifier(_placed(model).eval(), tokenizer, weights if weights.exists() else None, record)


def load_teacher(teacher: str, task: Task) -> Classifier:
    """A classifier to learn from, its labels in the task's order.

    Args:
        teacher: folder or hub id.
        task: what it must have been trained on.

    Raises:
        ConfigError: it is a student, its labels are not the task's, or what `load_classifier` refuses.
        MissingInputError: see `load_classifier`.
    """
    kind = recorded(teacher).kind
    if kind in _QUANTIZED:
        raise ConfigError(
            f"{teacher} holds {_QUANTIZED[kind]}, not a teacher: its weights are quantised already.",
            f"--teacher {teacher_folder(task.name)}",
        )
    loaded = load_classifier(teacher, f"kdqat finetune-teacher --task {task.name}")
    align_labels(loaded.model, task, f"The teacher {teacher}")
    return loaded


def load_encoder(encoder: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder with a new head for the task.

    Args:
        encoder: hub id, local folder, or `embedded`.
        task: gives the head's size and label names.

    Raises:
        ConfigError: a model that kdqat does not take: of another architecture, say, or a student.
        MissingInputError: nothing to load there, or a file is missing, damaged or does not fit the others.
    """
    location = encoder_location(encoder)
    if encoder == EMBEDDED and not Path(location).is_dir():
        raise MissingInputError(f"There is no model folder {location}.", "kdqat fetch")
    kind = recorded(location).kind
    if kind in _QUANTIZED:
        raise ConfigError(
            f"{encoder} holds {_QUANTIZED[kind]}, not an encoder: its weights are quantised already.",
            "--encoder ENCODER, with the one that its teacher was fine-tuned from",
        )
    place = Source.find(location)
    config, loader = load_encoder_config(place, **label_config(task))
    tokenizer = load_tokenizer(place, config)
    return load_weights(place, config, loader, new_head=True), tokenizer


def encoder_digest(encoder: str) -> str | None:
    """sha256 of an encoder's weights; None where they are not one local safetensors file."""
    weights = Path(encoder_location(encoder)) / _WEIGHTS
    return file_digest(weights) if weights.is_file() else None


def encoder_location(encoder: str) -> str:
    """The folder or hub id of an encoder, which may be `embedded`; of a teacher of ours its `model` folder."""
    folder = ASSETS / "encoder" if encoder == EMBEDDED else _model_folder(encoder)
    return str(folder) if folder.is_dir() or encoder == EMBEDDED else encoder


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, record: Record) -> None:
    """Writes config.json, model.safetensors, a student's codes, the tokenizer and kdqat.json."""
    model.save_pretrained(folder)
    save_codes(model, folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / ABOUT, record.to_json())


def student_record(kind: Kind, task: Task, teacher: Classifier, settings: Settings) -> Record:
    """What is recorded in kdqat.json of a quantised model."""
    max_length = row_length(task, teacher.tokenizer, settings.student.max_length, "--set student.max_length=")
    # Where a batch shares a scale, a score belongs to one way of making batches: the training's.
    fixed = settings.student.padding == "max_length"
    batches = Batches(size=settings.student.batch_size, pad_to=max_length) if fixed else BY_LENGTH
    batches = batches.model_copy(update={"keeps_more": settings.student.keeps_more})
    return Record(
        kind=kind,
        task=task.name,
        task_file=task_file(task),
        labels=task.labels,
        pairs=task.pairs,
        max_length=max_length,
        inputs=inputs_of(teacher.tokenizer),
        batches=batches,
        quantization=settings.quantization,
        sources={"teacher": None if teacher.weights is None else file_digest(teacher.weights)},
        versions=versions(),
    )


def size_figures(model: PreTrainedModel, weights: Path) -> Size:
    """A model's parameters, its weights file's bytes, bits per weight and ratio to FP32."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = weights.stat().st_size
    return {
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": round(8 * size / parameters, 3),
        "ratio_to_fp32": round(4 * parameters / size, 2),
    }


def recorded(source: str | Path, fix: str | None = None) -> Record:
    """What is recorded of a model; of kind `plain` where none of ours made it.

    Args:
        source: hub id, folder or packed file.
        fix: what to do about a folder that holds no model, for the error.

    Raises:
        MissingInputError: a folder that holds no model, or the record is damaged.
    """
    folder = _model_folder(source)
    if folder.is_dir() and not any(is_there(folder / name) for name in (CONFIG, ABOUT, FILE_NAME)):
        refuse_hollow(folder, fix)
    packed = (folder / FILE_NAME).exists()
    return PackedCheckpoint(folder / FILE_NAME).record if packed else _read_record(folder)


def recorded_task(source: str, fix: str | None = None) -> str | None:
    """The task that a folder of kdqat's was made for, as `load_task` takes it; None for any other model.

    Args:
        source: hub id, folder or packed file.
        fix: see `recorded`.

    Raises:
        MissingInputError: the task's own file is gone, or the record is damaged.
    """
    record = recorded(source, fix)
    if record.task_file is None:
        return record.task
    if not Path(record.task_file).is_file():
        raise MissingInputError(
            f"{source} was made for the task {record.task_file}, which is not there.", "--task FILE"
        )
    return record.task_file


def task_file(task: Task) -> str | None:
    """Where a user's task lies, for the record: relative to the working folder if it is in it; None: packaged."""
    if task.file is None:
        return None
    path = task.file.resolve()
    here = Path.cwd().resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _load_packed(folder: Path) -> Classifier:
    packed = PackedCheckpoint(folder / FILE_NAME)
    record = packed.record
    packed_reader(folder / FILE_NAME, record, packed.config)  # refuses a tokenizer that does not fit
    place = Source.find(str(folder), "kdqat export")
    with place.reading():
        model = AutoModelForSequenceClassification.from_pretrained(place.location, **place.options)
    check_outputs(model.config, place.location)
    tokenizer = load_tokenizer(place, model.config, record.inputs)
    _check_length(record, tokenizer, place.location)
    return Classifier(_placed(model), tokenizer, folder / FILE_NAME, record)


def _check_length(record: Record, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if record.max_length is not None and record.max_length > tokenizer.model_max_length:
        raise MissingInputError(
            f"{name} was made for rows of {record.max_length} tokens, but reads at most {tokenizer.model_max_length}."
        )


def _model_folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.name == FILE_NAME and folder.is_file():
        return folder.parent
    return folder / MODEL if (folder / MODEL).is_dir() and not (folder / "config.json").exists() else folder


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _read_record(folder: Path) -> Record:
    path = folder / ABOUT
    if not is_there(path):
        return Record()
    text = text_of(path, read_bytes(path, _LARGEST_RECORD))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MissingInputError(f"{path} is not JSON; the folder is damaged.") from error
    return read_record(value, str(path))
