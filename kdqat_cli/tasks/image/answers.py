"""Paths of pictures → labels and probabilities."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdqat_cli.errors import MissingInputError
from kdqat_cli.tasks.answers import Answer, Gives, answer_of
from kdqat_cli.tasks.image.data import Images, read_picture
from kdqat_cli.tasks.image.rows import ImageRows
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.networks import LoadedNetwork
from kdqat_cli.texts import Text


@dataclass(frozen=True)
class ImageAnswerer:
    """A classifier of pictures: see `Answerer` in tasks/answers.py.

    Attributes:
        loaded: the network.
        task: the task, which has the size of the pictures.
    """

    loaded: LoadedNetwork
    task: ImageTask
    gives: Gives = "label"
    pairs: bool | None = False
    remark: str | None = None

    @property
    def labels(self) -> list[str] | None:
        """The task's classes."""
        return self.task.labels

    def answers(self, batch: list[Text]) -> list[Answer]:
        """See `Answerer`. A line is the path of a picture; if the picture cannot be read, the answer is an error."""
        found = [Answer() for _ in batch]
        pictures = {}
        for place, line in enumerate(batch):
            try:
                pictures[place] = read_picture(Path(line.text), self.task)
            except MissingInputError as error:
                found[place] = Answer(error=error.sentence)
        if pictures:
            images = Images(np.stack(list(pictures.values())), np.zeros(len(pictures), np.int64))
            logits = ImageRows(self.task, images).logits(self.loaded.model)
            for place, values in zip(pictures, logits, strict=True):
                found[place] = answer_of(self.labels, values)
        return found
