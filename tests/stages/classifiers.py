"""Tasks, models and model folders for tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.schema import TextTask

THREE = ["entailment", "neutral", "contradiction"]


def task_with(labels: list[str] | None, name: str = "tiny") -> TextTask:
    rte = load_text_task("rte")
    if labels is None:
        return rte.model_copy(update={"name": name, "labels": None, "range": [0.0, 5.0], "metric": "pearson"})
    return rte.model_copy(update={"name": name, "labels": labels})


def name_labels(model: PreTrainedModel, labels: list[str]) -> None:
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


def copied(folder: Path, to: Path, **config: Any) -> Path:
    """A copy of a model folder with other values in config.json; None removes a key."""
    shutil.copytree(folder, to)
    edit(to / "config.json", **config)
    return to


def edit(path: Path, **values: Any) -> None:
    """Changes values of a JSON file; None removes a key."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Replaces the tensors of a model folder."""
    path = folder / "model.safetensors"
    state = {name: values.clone() for name, values in change(load_file(path)).items()}
    save_file(state, path, {"format": "pt"})
