"""The YAML file of an image task: where its pictures lie, and how a network reads them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from kdqat_cli.tasks.task import Hosted, LabelledTask

SOURCES = (".bin", ".parquet", ".csv")
"""Endings of files that hold images, or their paths; a folder holds one folder of pictures per class."""


class ImageTask(LabelledTask):
    """A task whose rows are images of one size, each with a class."""

    builtin: Literal["digits"] | None = None
    """Images that a package brings: `digits` are scikit-learn's. Absent: `files` says where they lie."""
    files: dict[str, list[str]] = Field(default_factory=dict)
    """Per split, files or folders relative to the data folder or, for a user's task, to the task file's own folder:
    CIFAR's binary files (.bin), the hub's .parquet, a .csv with the columns path and label, or a folder of one folder
    per class."""
    hub_files: dict[str, list[str]] = Field(default_factory=dict)
    """Per split, the files of the same images as the hub has them; they are read where none of `files` is there."""
    label_bytes: int = Field(default=1, ge=1, le=2)
    """Bytes before each image of a .bin file, of which the last is the class: 1 in CIFAR-10, 2 in CIFAR-100."""
    image: list[int] = Field(min_length=3, max_length=3)
    """Channels (1 or 3), height and width; every image must have them."""
    mean: list[float]
    """Per channel, what is subtracted from values of 0 to 1."""
    std: list[float]
    """Per channel, what they are divided by then."""
    augment: Literal["none", "crop-flip"] = "none"
    """Change of a training's images: none, or a shift by up to four pixels and a mirroring, both at random."""
    held_out: int = Field(default=10, ge=2)
    """Every so many-th row of train belongs to dev and not to train, where no file is dev."""
    network: str
    """Network of a teacher that names none."""

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        known = ["train", "test"] if self.builtin else list(self.files)
        return ["dev", *(split for split in known if split not in ("train", "dev"))]

    @property
    def row(self) -> dict[str, object]:
        """What `kdqat ls tasks` shows of a row."""
        return {"rows": "×".join(map(str, self.image)), "files": (self.files.get("train") or ["-"])[0]}

    @property
    def hosted(self) -> Hosted:
        """The task in the words of the model hub."""
        return super().hosted._replace(pipeline="image-classification")

    def source(self, encoder: str | None, network: str | None, default: str) -> str:
        """A network: see `Task.source`."""
        return super().source(encoder, network or self.network, default)

    def faults(self) -> list[str]:
        """See `Task.faults`."""
        faults = super().faults()
        if self.regression:
            faults.append("range: an image has a class, not a number.")
        if (self.builtin is None) == (not self.files):
            faults.append("exactly one of builtin and files must be given.")
        if self.files and "train" not in self.files:
            faults.append("files: train must be given.")
        channels, height, width = self.image
        if channels not in (1, 3) or min(height, width) < 1:
            faults.append("image: it must be 1 or 3 channels, height and width.")
        if not len(self.mean) == len(self.std) == channels:
            faults.append(f"mean and std: each must hold {channels} numbers, one per channel.")
        if min(self.std, default=1.0) <= 0:
            faults.append("std: every number must be above 0.")
        if self.hub_files and self.hub_files.keys() != self.files.keys():
            faults.append("hub_files: it must have the splits that files has.")
        for key, files in (("files", self.files), ("hub_files", self.hub_files)):
            for split, name in ((split, name) for split, names in files.items() for name in names):
                if Path(name).suffix not in ("", *SOURCES):
                    faults.append(f"{key}.{split}: {name} must be a folder, or end in one of {', '.join(SOURCES)}.")
        return faults
