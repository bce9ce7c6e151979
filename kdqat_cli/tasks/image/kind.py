"""Images as a kind of task: see `Kind` in tasks/kind.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from kdqat_cli.config import Training
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.loading import Source, load_net
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.codes_file import load_codes, save_codes
from kdqat_cli.quantizers.parameters import plain_state
from kdqat_cli.record import Record
from kdqat_cli.store.folder import ABOUT
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.image.data import load_images
from kdqat_cli.tasks.image.rows import ImageRows
from kdqat_cli.tasks.image.schema import ImageTask, no_meaning
from kdqat_cli.tasks.records import made_by, model_folder, recorded_in, task_file
from kdqat_cli.tasks.task import label_config

_WEIGHTS = "model.safetensors"


@dataclass
class ImageNetwork:
    """A network that classifies images: see `Loaded` in tasks/kind.py."""

    model: PreTrainedModel
    weights: Path | None
    record: Record


class Image:
    """Images of one size, that a network of kdqat's reads."""

    def inputs(self, source: str) -> dict[str, str]:
        """Nothing: a new network has random weights."""
        return {}

    def new(self, task: ImageTask, source: str) -> ImageNetwork:
        """A network by name, with random weights."""
        model = new_network(source, "image", image=tuple(task.image), **label_config(task))
        return ImageNetwork(_placed(model), None, Record(network=source))

    def load(self, source: str, fix: str | None = None) -> ImageNetwork:
        """A network that kdqat trained."""
        folder = model_folder(source)
        record = recorded_in(folder)
        place = Source.find(str(folder) if folder.is_dir() else source, fix)
        again = made_by(record)
        model = load_net(place, again)
        if record.quantization is not None:
            quantize_model(model, record.quantization)
            load_codes(model, folder, again or "kdqat distill")
        weights = folder / _WEIGHTS
        return ImageNetwork(_placed(model).eval(), weights if weights.exists() else None, record)

    def align(self, loaded: ImageNetwork, task: ImageTask, name: str) -> None:
        """The labels must be those of the task, in its order, and so must an image's size."""
        config, fix = loaded.model.config, f"kdqat finetune-teacher --task {task.name}"
        labels = [config.id2label[index] for index in range(config.num_labels)]
        if labels != task.labels:
            wanted = ", ".join(task.labels or [])
            raise ConfigError(f"{name} has the labels {', '.join(labels)}, but task {task.name} has {wanted}.", fix)
        if list(config.image) != task.image:
            found, size = ("×".join(map(str, shape)) for shape in (config.image, task.image))
            raise ConfigError(f"{name} reads images of {found}, but task {task.name} has images of {size}.", fix)

    def reading(
        self, loaded: ImageNetwork, task: ImageTask, training: Training, section: Literal["teacher", "student"]
    ) -> Record:
        """The task; an image is read whole."""
        if training.max_length is not None:
            raise no_meaning(f"--set {section}.max_length", task)
        return Record(task=task.name, task_file=task_file(task), rows_kind="image", labels=task.labels)

    def as_recorded(self, loaded: ImageNetwork, task: ImageTask, max_length: int | None) -> Record:
        """What is recorded."""
        if max_length is not None:
            raise no_meaning("--max-length", task)
        return loaded.record

    def rows(
        self, task: ImageTask, split: str, data_dir: Path | None, loaded: ImageNetwork, record: Record
    ) -> ImageRows:
        """Images as bytes."""
        return ImageRows(task, load_images(task, split, data_dir))

    def save(self, loaded: ImageNetwork, folder: Path, record: Record) -> None:
        """Writes config.json, model.safetensors, a student's codes and kdqat.json."""
        loaded.model.save_pretrained(folder, state_dict=plain_state(loaded.model))
        save_codes(loaded.model, folder)
        write_json(folder / ABOUT, record.to_json())


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


IMAGE = Image()
