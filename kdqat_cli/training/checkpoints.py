"""Checkpoints of a training, from which it continues as if it had not been interrupted.

A checkpoint consists of accelerate's files (weights, optimiser, random states of each process) and `progress.json`. It
is valid if the file `complete` is there, which is written last. The newest and the best checkpoint are kept.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_model
from torch import nn

from kdqat_cli import group
from kdqat_cli.store.writing import sync_tree
from kdqat_cli.training.history import Row

_WHOLE = "complete"
_PROGRESS = "progress.json"
_WEIGHTS = "model.safetensors"


@dataclass
class Standing:
    """The progress of a training.

    Attributes:
        step: number of finished optimiser steps.
        best: the best value of the metric that is maximised.
        best_step: the step of the best value; 0: not evaluated yet.
        history: the rows of the history; see `Row`.
    """

    step: int = 0
    best: float = float("-inf")
    best_step: int = 0
    history: list[Row] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """The dev scores of all evaluations."""
        return [row["score"] for row in self.history if "score" in row]


class Checkpoints:
    """The checkpoints of one training, in their own folder."""

    def __init__(self, folder: Path) -> None:
        """Finds the newest complete checkpoint, and removes checkpoints that a kill or a full disk left incomplete."""
        self._folder = folder
        whole = {marker.parent for marker in folder.glob(f"*/{_WHOLE}")}
        self._newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
        if group.leads():
            self._keep(whole)

    def standing(self) -> Standing:
        """The progress at the newest checkpoint; without a checkpoint, the start of the training."""
        if self._newest is None:
            return Standing()
        return Standing(**json.loads((self._newest / _PROGRESS).read_text(encoding="utf-8")))

    def restore(self, accelerator: Accelerator) -> None:
        """Loads weights, optimiser and random states from the newest checkpoint, if there is one."""
        if self._newest is not None:
            accelerator.load_state(str(self._newest))

    def save(self, accelerator: Accelerator, standing: Standing) -> None:
        """Writes a checkpoint, then removes checkpoints that are neither the newest nor the best."""
        path = self._at(standing.step)
        accelerator.save_state(str(path))
        group.meet()  # each process writes a file with its random states
        if not group.leads():
            return
        (path / _PROGRESS).write_text(json.dumps(asdict(standing)), encoding="utf-8")
        sync_tree(path)
        (path / _WHOLE).touch()
        sync_tree(path)
        self._keep({path, self._at(standing.best_step)})

    def load_best(self, model: nn.Module, standing: Standing) -> None:
        """Loads the weights of the best evaluation into the model."""
        load_model(model, self._at(standing.best_step) / _WEIGHTS)

    def _at(self, step: int) -> Path:
        return self._folder / f"checkpoint-{step}"

    def _keep(self, wanted: set[Path]) -> None:
        for path in self._folder.glob("checkpoint-*"):
            if path not in wanted:
                (path / _WHOLE).unlink(missing_ok=True)  # first, so that a half-removed checkpoint is not valid
                shutil.rmtree(path)
