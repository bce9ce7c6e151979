"""Images as a kind of task: see `Kind` in tasks/kind.py."""

from pathlib import Path
from typing import Literal

from kdqat_cli.config import Training
from kdqat_cli.errors import ConfigError
from kdqat_cli.record import Record
from kdqat_cli.tasks.image.answers import ImageAnswerer
from kdqat_cli.tasks.image.data import load_images
from kdqat_cli.tasks.image.rows import ImageRows
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.networks import LoadedNetwork, NetworkKind
from kdqat_cli.tasks.records import task_file


class ImageKind(NetworkKind):
    """Images of one size, for kdqat's own networks."""

    name = "image"

    def config(self, task: ImageTask) -> dict[str, object]:
        """The size of an image."""
        return {"image": task.image}

    def reading(
        self, loaded: LoadedNetwork, task: ImageTask, training: Training, section: Literal["teacher", "student"]
    ) -> Record:
        """See `Kind`; an image is not truncated, so the settings must have no `max_length`."""
        if training.max_length is not None:
            raise ConfigError(
                f"{section}.max_length has no meaning for task {task.name}, whose rows are images.",
                f"--set {section}.max_length=null",
            )
        return Record(task=task.name, task_file=task_file(task), rows_kind=self.name, labels=task.labels)

    def rows(
        self,
        task: ImageTask,
        split: str,
        data_dir: Path | None,
        loaded: LoadedNetwork,
        record: Record,
        limit: int | None = None,
    ) -> ImageRows:
        """See `Kind`."""
        return ImageRows(task, load_images(task, split, data_dir).first(limit))

    def reads_lines(self, loaded: LoadedNetwork, task: ImageTask) -> ImageAnswerer:
        """An answerer whose lines are paths of pictures."""
        return ImageAnswerer(loaded, task)


IMAGE = ImageKind()
