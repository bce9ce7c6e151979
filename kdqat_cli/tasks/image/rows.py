"""The images of a task in the form that a network reads, and a network's score on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli import group
from kdqat_cli.config import PaddingName
from kdqat_cli.tasks.details import Answers
from kdqat_cli.tasks.image.data import Images, png
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.kind import Sample
from kdqat_cli.tasks.metrics import chance_score, compute_metrics

if TYPE_CHECKING:
    from kdqat_cli.engine.engine import Engine

Example = tuple[Tensor, int]
_SCORED = 256  # images per forward pass of an evaluation
_SHIFT = 4  # crop-flip shifts an image by at most so many pixels


@dataclass(frozen=True)
class ImageRows:
    """One split of a task.

    Attributes:
        task: the task.
        images: its rows.
    """

    task: ImageTask
    images: Images

    @property
    def digest(self) -> str:
        """sha256 of the rows."""
        return self.images.digest

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes (rows,)."""
        return self.images.labels

    @property
    def chance(self) -> float:
        """The score in percent of the best constant answer."""
        return chance_score(self.task, self.labels)

    @cached_property
    def examples(self) -> list[Example]:
        """Bytes (channels, height, width) and class of each row."""
        return list(zip(torch.from_numpy(self.images.pixels).unbind(), self.images.labels.tolist(), strict=True))

    @property
    def lengths(self) -> list[int]:
        """1 for every row, because all images have the same size."""
        return [1] * len(self.images.labels)

    def collate(self, padding: PaddingName) -> Callable[[list[Example]], dict[str, Tensor]]:
        """See `Rows` in tasks/kind.py. Images need no padding."""

        def batch(rows: list[Example]) -> dict[str, Tensor]:
            pixels = torch.stack([image for image, _ in rows])
            if self.task.augment == "crop-flip":
                pixels = crop_flip(pixels)
            labels = torch.tensor([label for _, label in rows])
            return {"pixel_values": self._normalized(pixels), "labels": labels, "counted": torch.ones(len(rows), 1)}

        return batch

    def part(self, numbers: list[int]) -> "ImageRows":
        """Some of the rows, by their numbers."""
        return replace(self, images=Images(self.images.pixels[numbers], self.images.labels[numbers]))

    def token_groups(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """No groups, because an image has no tokens."""
        return {}

    def sample(self, number: int) -> Sample:
        """The image."""
        return Sample(picture=png(self.images.pixels[number]))

    @torch.no_grad()
    def logits(self, model: PreTrainedModel) -> NDArray[np.float32]:
        """Computes the logits (rows, labels) in eval mode. Each process of a group computes a share of the batches."""
        pixels = torch.from_numpy(self.images.pixels)
        logits = torch.zeros(len(pixels), self.task.num_labels, device=model.device)
        training = model.training
        model.eval()
        for start in range(group.rank() * _SCORED, len(pixels), group.size() * _SCORED):
            part = slice(start, start + _SCORED)
            logits[part] = model(self._normalized(pixels[part]).to(model.device)).logits.float()
        model.train(training)
        out: NDArray[np.float32] = group.add_up(logits).cpu().numpy()
        return out

    def score(self, model: PreTrainedModel, engine: "Engine | None" = None) -> dict[str, float]:
        """A model's metrics on these rows, in percent, computed by torch."""
        return compute_metrics(self.task, self.logits(model), self.labels)

    def answers(self, model: PreTrainedModel, engine: "Engine | None" = None) -> Answers:
        """A model's answers to all images; the tables show only the numbers of the images."""
        return Answers(self.logits(model), self.labels, {})

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Bytes (B, C, H, W) → (value / 255 - mean) / std."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.task.mean, self.task.std))
        return (pixels.float() / 255 - mean) / std


def crop_flip(pixels: Tensor) -> Tensor:
    """Shifts each image (B, C, H, W) at random by up to four pixels, and mirrors it with probability 1/2.

    It is the augmentation in the public code of Polino et al.: the image gets a border of four zeros, and a random
    window of the original size is cut out. The random numbers are torch's.
    """
    count, _, height, width = pixels.shape
    framed = torch.nn.functional.pad(pixels, (_SHIFT,) * 4)
    down, right = torch.randint(2 * _SHIFT + 1, (2, count))
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    mirrored = torch.rand(count) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return framed[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
