"""A user's own kind of task, with a network: points in the plane, in two classes."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention as Output

from kdqat_cli.networks import nets
from kdqat_cli.networks.net import Net
from kdqat_cli.record import Record
from kdqat_cli.tasks import registry
from kdqat_cli.tasks.details import Answers
from kdqat_cli.tasks.kind import Sample
from kdqat_cli.tasks.metrics import chance_score, compute_metrics
from kdqat_cli.tasks.networks import NetworkKind
from kdqat_cli.tasks.records import task_file
from kdqat_cli.tasks.task import LabelledTask


class PointsTask(LabelledTask):
    """The schema. The files are CSV with the columns x, y and label."""

    files: dict[str, str]


class PerceptronConfig(PreTrainedConfig):  # type: ignore[misc]
    """The configuration: one hidden layer."""

    model_type = "perceptron"
    width: int = 8


class Perceptron(PreTrainedModel):  # type: ignore[misc]
    """linear → ReLU → linear."""

    config_class = PerceptronConfig

    def __init__(self, config: PerceptronConfig) -> None:
        super().__init__(config)
        self.inner, self.outer = nn.Linear(2, config.width), nn.Linear(config.width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, points: Tensor) -> Output:
        return Output(logits=self.outer(self.inner(points).relu()))


@dataclass(frozen=True)
class PointRows:
    """Points (rows, 2) and classes (rows,)."""

    task: PointsTask
    points: Tensor
    labels: Any

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.points.numpy().tobytes() + self.labels.tobytes()).hexdigest()

    @property
    def chance(self) -> float:
        return chance_score(self.task, self.labels)

    @property
    def examples(self) -> list[tuple[Tensor, int]]:
        return list(zip(self.points, self.labels.tolist(), strict=True))

    @property
    def lengths(self) -> list[int]:
        return [1] * len(self.labels)

    def collate(self, padding: str) -> Any:
        def batch(rows: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
            points, labels = zip(*rows, strict=True)
            return {"points": torch.stack(points), "labels": torch.tensor(labels), "counted": torch.ones(len(rows), 1)}

        return batch

    def part(self, numbers: list[int]) -> "PointRows":
        return PointRows(self.task, self.points[numbers], self.labels[numbers])

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def sample(self, number: int) -> Sample:
        return Sample(texts=(str(self.points[number].tolist()),))

    def score(self, model: PreTrainedModel, engine: Any = None) -> dict[str, float]:
        return compute_metrics(self.task, self.answers(model).logits, self.labels)

    @torch.no_grad()
    def answers(self, model: PreTrainedModel, engine: Any = None) -> Answers:
        return Answers(model(self.points).logits.numpy(), self.labels, {})


class Points(NetworkKind):
    """The kind: points in the plane."""

    name = "points"

    def config(self, task: PointsTask) -> dict[str, Any]:
        return {}

    def reading(self, loaded: Any, task: PointsTask, training: Any, section: str) -> Record:
        return Record(task=task.name, task_file=task_file(task), rows_kind=self.name, labels=task.labels)

    def rows(
        self, task: PointsTask, split: str, data_dir: Path | None, loaded: Any, record: Record, limit: int | None = None
    ) -> PointRows:
        assert task.folder is not None
        with (task.folder / task.files[split]).open(encoding="utf-8") as file:
            rows = [(float(row["x"]), float(row["y"]), int(row["label"])) for row in csv.DictReader(file)]
        table = np.array(rows[:limit])
        return PointRows(task, torch.tensor(table[:, :2], dtype=torch.float32), table[:, 2].astype(np.int64))


registry.register("points", PointsTask, Points)
nets.register(
    Net("perceptron", "points", lambda: (PerceptronConfig, Perceptron), {"wide": {"width": 32}, "narrow": {"width": 8}},
        first="inner", last="outer")
)  # fmt: skip
