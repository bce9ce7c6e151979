"""Loading and saving classifiers: hub ids, plain folders, kdqat's own folders, packed folders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdqat_cli.config import Settings
from kdqat_cli.distillation.divergence import weight_at_fault
from kdqat_cli.encoders import classifier_of
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.hub import first_line, why_unreachable
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint
from kdqat_cli.quantization.model import quantize_model
from kdqat_cli.record import BY_LENGTH, Batches, Kind, Record, read_record
from kdqat_cli.runtime.reader import packed_reader
from kdqat_cli.stages.digest import file_digest
from kdqat_cli.stages.folder import MODEL, write_json
from kdqat_cli.stages.record import versions
from kdqat_cli.stages.rows import row_length
from kdqat_cli.t5.model import SOURCES, T5EncoderForSequenceClassification
from kdqat_cli.tasks.data import ASSETS
from kdqat_cli.tasks.registry import Task

EMBEDDED = "embedded"
ABOUT = "kdqat.json"
_WEIGHTS = "model.safetensors"


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
        MissingInputError: nothing to load there, a file is damaged, or a weight is no finite number.
    """
    folder = _model_folder(source)
    if (folder / FILE_NAME).exists():
        packed = PackedCheckpoint(folder / FILE_NAME)
        record = packed.record
        packed_reader(folder / FILE_NAME, record, packed.config)  # refuses a tokenizer that does not fit
        model = _load(AutoModelForSequenceClassification, str(folder), "kdqat export")
        return Classifier(_placed(model), _load_tokenizer(folder), folder / FILE_NAME, record)
    location = str(folder) if folder.is_dir() else str(source)
    record = _read_record(folder)
    # A head that does not fit must not be filled with random numbers: num_labels stays what the folder says.
    model = _load(AutoModelForSequenceClassification, location, fix, dtype=torch.float32)
    weight = weight_at_fault({"model": model})
    if weight:  # every answer would be the first label
        again = "kdqat distill, or for a teacher kdqat finetune-teacher, to train it again"
        raise MissingInputError(f"{location}: {weight} is not finite.", again)
    if record.quantization is not None:
        quantize_model(model, record.quantization, frozen=True)
    weights = folder / _WEIGHTS
    return Classifier(_placed(model).eval(), _load_tokenizer(location), weights if weights.exists() else None, record)


def load_encoder(encoder: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder with a new head for the task.

    Args:
        encoder: hub id, local folder, or `embedded`.
        task: gives the head's size and label names.

    Raises:
        MissingInputError: nothing to load there.
    """
    location = _encoder_location(encoder)
    if encoder == EMBEDDED and not Path(location).is_dir():
        raise MissingInputError(f"There is no model folder {location}.", "kdqat fetch")
    model = _load(_NewClassifier, location, None, dtype=torch.float32, **label_config(task))
    return model, _load_tokenizer(location)


def encoder_digest(encoder: str) -> str | None:
    """sha256 of an encoder's weights; None where they are not one local safetensors file."""
    weights = Path(_encoder_location(encoder)) / _WEIGHTS
    return file_digest(weights) if weights.is_file() else None


def _encoder_location(encoder: str) -> str:
    return str(ASSETS / "encoder") if encoder == EMBEDDED else encoder


class _NewClassifier:
    """transformers' classifier of an encoder's type, except T5's, which has a decoder and is replaced by ours."""

    @staticmethod
    def from_pretrained(location: str, **options: Any) -> PreTrainedModel:
        config = AutoConfig.from_pretrained(location, **options)
        if config.model_type not in SOURCES:
            return AutoModelForSequenceClassification.from_pretrained(location, **options)
        kept = {key: options[key] for key in ("dtype", "local_files_only")}
        return T5EncoderForSequenceClassification.from_t5(location, config, **kept)


def label_config(task: Task) -> dict[str, Any]:
    """The head's part of config.json for a task."""
    if task.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    labels = task.labels or []
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, record: Record) -> None:
    """Writes config.json, model.safetensors, the tokenizer and kdqat.json."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / ABOUT, record.to_json())


def align_labels(model: PreTrainedModel, task: Task, name: str) -> None:
    """Reorders the rows of a classifier's head so that its labels stand in the task's order, by name.

    A head whose names say nothing (LABEL_0, …) is taken to be in the task's order.

    Args:
        model: changed in place.
        task: whose order is wanted.
        name: what the error calls the model.

    Raises:
        ConfigError: another number of labels, or other names.
    """
    if model.config.num_labels != task.num_labels:
        raise ConfigError(
            f"{name} has {model.config.num_labels} labels, but task {task.name} has {task.num_labels}.",
            f"kdqat finetune-teacher --task {task.name}",
        )
    if not task.regression:
        wanted = [label.casefold() for label in task.labels or []]
        given = [str(model.config.id2label[index]).casefold() for index in range(task.num_labels)]
        if given != [f"label_{index}" for index in range(task.num_labels)]:
            if sorted(given) != sorted(wanted):
                raise ConfigError(
                    f"{name} has the labels {', '.join(given)}, but task {task.name} has {', '.join(wanted)}.",
                    f"kdqat finetune-teacher --task {task.name}",
                )
            _reorder(classifier_of(model), [given.index(label) for label in wanted])
    for key, value in label_config(task).items():
        setattr(model.config, key, value)


@torch.no_grad()
def _reorder(head: nn.Linear, rows: list[int]) -> None:
    head.weight.copy_(head.weight[rows].clone())
    if head.bias is not None:
        head.bias.copy_(head.bias[rows].clone())


def student_record(kind: Kind, task: Task, teacher: Classifier, settings: Settings) -> Record:
    """What is recorded in kdqat.json of a quantised model."""
    max_length = row_length(task, teacher.tokenizer, settings.student.max_length)
    # Where a batch shares a scale, a score belongs to one way of making batches: the training's.
    fixed = settings.student.padding == "max_length"
    batches = Batches(size=settings.student.batch_size, pad_to=max_length) if fixed else BY_LENGTH
    return Record(
        kind=kind,
        task=task.name,
        labels=task.labels,
        pairs=task.pairs,
        max_length=max_length,
        batches=batches,
        quantization=settings.quantization,
        sources={"teacher": None if teacher.weights is None else file_digest(teacher.weights)},
        versions=versions(),
    )


def size_figures(model: PreTrainedModel, weights: Path) -> dict[str, float]:
    """A model's parameters, its weights file's bytes, bits per weight and ratio to FP32."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = weights.stat().st_size
    return {
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": round(8 * size / parameters, 3),
        "ratio_to_fp32": round(4 * parameters / size, 2),
    }


def recorded_task(source: str) -> str | None:
    """The task that a folder of kdqat's was made for; None for any other model."""
    folder = _model_folder(source)
    packed = (folder / FILE_NAME).exists()
    return (PackedCheckpoint(folder / FILE_NAME).record if packed else _read_record(folder)).task


def _model_folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.name == FILE_NAME and folder.is_file():
        return folder.parent
    return folder / MODEL if (folder / MODEL).is_dir() and not (folder / "config.json").exists() else folder


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _load(auto: Any, location: str, fix: str | None, **options: Any) -> PreTrainedModel:
    path = Path(location)
    unreachable = ""
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingInputError(f"The folder {location} holds no model: it has no config.json.", fix)
    elif path.is_absolute() or location.startswith(".") or location.count("/") != 1:  # not the form of a hub id
        raise MissingInputError(f"There is no model folder {location}.", fix)
    else:
        unreachable = why_unreachable(location, "model")
    try:
        # Left open, transformers would ask whether to run code that a model brings along.
        return auto.from_pretrained(location, local_files_only=bool(unreachable), trust_remote_code=False, **options)
    except KdqatError:
        raise
    except Exception as error:  # hub, file system, JSON and safetensors each have their own
        what = f"The folder {location}"
        if not path.is_dir():
            what = f"There is no folder {location}, and the hub model of that name"
            fix = "the same command with a local folder in place of the hub id"
        raise MissingInputError(f"{what} could not be loaded: {unreachable or first_line(error)}.", fix) from error


def _load_tokenizer(location: str | Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    except Exception as error:
        raise MissingInputError(f"The tokenizer of {location} could not be loaded: {error}") from error


def _read_record(folder: Path) -> Record:
    path = folder / ABOUT
    if not path.is_file():
        return Record()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingInputError(f"{path} is not JSON; the folder is damaged.") from error
    return read_record(value, str(path))
