"""Loads and saves classifiers: hub ids, plain folders, kdqat's own folders, packed folders.

This module uses networks/loading.py (complete weights), tokenizers.py (a tokenizer that fits its encoder) and head.py
(the meaning of the outputs). Everything that the small files show is checked before the weights are read.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import MissingInputError
from kdqat_cli.networks.loading import Source, load_config, load_encoder_config, load_weights
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint
from kdqat_cli.packing.codes_file import load_codes, save_codes
from kdqat_cli.record import Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.folder import ABOUT
from kdqat_cli.store.places import EMBEDDED
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.records import made_by, model_folder, recorded_in, refuse_quantized
from kdqat_cli.tasks.sources import ASSETS
from kdqat_cli.tasks.task import label_config
from kdqat_cli.tasks.text.head import check_outputs
from kdqat_cli.tasks.text.reader import packed_reader
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.tasks.text.tokenizers import load_tokenizer

_WEIGHTS = "model.safetensors"


@dataclass
class Classifier:
    """A loaded classifier.

    Attributes:
        model: the network, in eval mode, FP32, on the GPU if there is one.
        tokenizer: its tokenizer.
        weights: the file of its weights; None: a hub id.
        record: the record of the stage that made it; its kind is `plain` if kdqat did not make the model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: Path | None
    record: Record


def load_classifier(source: str | Path, fix: str | None = None) -> Classifier:
    """Loads a classifier from a hub id, a folder (or its subfolder `model`), or a packed file.

    Args:
        source: hub id, folder or packed file.
        fix: the command that makes the folder, for the error.

    Raises:
        ConfigError: kdqat cannot use the model, for example because of its architecture.
        MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
    """
    folder = model_folder(source)
    if (folder / FILE_NAME).exists():
        return _load_packed(folder)
    record = recorded_in(folder)
    place = Source.find(str(folder) if folder.is_dir() else str(source), fix)
    config = load_config(place)
    check_outputs(config, place.location)
    tokenizer = load_tokenizer(place, config, record.inputs)
    _check_length(record, tokenizer, place.location)
    again = made_by(record)
    model = load_weights(place, config, again=again)
    if record.quantization is not None:
        quantize_model(model, record.quantization)
        load_codes(model, folder, again or "kdqat distill")
    weights = folder / _WEIGHTS
    return Classifier(_placed(model).eval(), tokenizer, weights if weights.exists() else None, record)


def load_encoder(encoder: str, task: TextTask) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads an encoder, and adds a new head for the task.

    Args:
        encoder: hub id, local folder, or `embedded`.
        task: the task, which determines the head's size and label names.

    Raises:
        ConfigError: kdqat cannot use the model, for example because of its architecture, or because it is a student.
        MissingInputError: there is no model, or a file is missing, is damaged or does not fit the others.
    """
    location = encoder_location(encoder)
    if encoder == EMBEDDED and not Path(location).is_dir():
        raise MissingInputError(f"There is no model folder {location}.", "kdqat fetch")
    fix = "--encoder ENCODER, with the one that its teacher was fine-tuned from"
    refuse_quantized(location, encoder, "an encoder", fix)
    place = Source.find(location)
    config, loader = load_encoder_config(place, **label_config(task))
    tokenizer = load_tokenizer(place, config)
    return load_weights(place, config, loader, new_head=True), tokenizer


def encoder_digest(encoder: str) -> str | None:
    """sha256 of an encoder's weights; None: they are not one local safetensors file."""
    weights = Path(encoder_location(encoder)) / _WEIGHTS
    return file_digest(weights) if weights.is_file() else None


def encoder_location(encoder: str) -> str:
    """The folder or hub id of an encoder, which may be `embedded`; for the output folder of a stage, its model/."""
    folder = ASSETS / "encoder" if encoder == EMBEDDED else model_folder(encoder)
    return str(folder) if folder.is_dir() or encoder == EMBEDDED else encoder


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, record: Record) -> None:
    """Writes config.json, model.safetensors, a student's codes, the tokenizer and kdqat.json."""
    model.save_pretrained(folder)
    save_codes(model, folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / ABOUT, record.to_json())


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


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
