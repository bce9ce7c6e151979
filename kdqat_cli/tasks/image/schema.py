"""The YAML file of an image task: the files of its pictures, and how a network reads them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from kdqat_cli.tasks.task import Hosted, LabelledTask

SOURCES = (".bin", ".parquet", ".csv")
"""Endings of files with images or their paths. A name without an ending is a folder with a folder per class."""


class ImageTask(LabelledTask):
    """A task whose rows are images of one size, each with a class."""

    builtin: Literal["digits"] | None = None
    """Images that are part of a package: `digits` of scikit-learn; absent: `files` names the files."""
    files: dict[str, list[str]] = Field(default_factory=dict)
    """Per split, files or folders relative to the data folder or, for a user's task, to the task file's own folder:
    CIFAR's binary files (.bin), the hub's .parquet, a .csv with the columns path and label, or a folder of one folder
    per class."""
    hub_files: dict[str, list[str]] = Field(default_factory=dict)
    """Per split, the hub's files of the same images; they are read if no file of `files` exists."""
    label_bytes: int = Field(default=1, ge=1, le=2)
    """Bytes before each image of a .bin file; the last of them is the class: 1 in CIFAR-10, 2 in CIFAR-100."""
    image: list[int] = Field(min_length=3, max_length=3)
    """Channels (1 or 3), height and width of every image."""
    mean: list[float]
    """Per channel, the number that is subtracted from the values, which are from 0 to 1."""
    std: list[float]
    """Per channel, the number that the difference is divided by."""
    augment: Literal["none", "crop-flip"] = "none"
    """Random change of the training images: none, or a shift by up to four pixels and a mirroring."""
    held_out: int = Field(default=10, ge=2)
    """If there is no dev file, every n-th row of train, n being this number, belongs to dev instead of train."""
    network: str
    """Network of a teacher, unless --network names another."""

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate on: dev, then any others."""
        known = ["train", "test"] if self.builtin else list(self.files)
        return ["dev", *(split for split in known if split not in ("train", "dev"))]

    @property
    def row(self) -> dict[str, object]:
        """See `Task.row`."""
        return {"rows": "×".join(map(str, self.image)), "files": (self.files.get("train") or ["-"])[0]}

    @property
    def hosted(self) -> Hosted:
        """See `Task.hosted`."""
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
            faults.append("image: must be 1 or 3 channels, then height and width.")
        if not len(self.mean) == len(self.std) == channels:
            faults.append(f"mean and std: each must have {channels} numbers, one per channel.")
        if min(self.std, default=1.0) <= 0:
            faults.append("std: every number must be above 0.")
        if self.hub_files and self.hub_files.keys() != self.files.keys():
            faults.append("hub_files: must have the same splits as files.")
        for key, files in (("files", self.files), ("hub_files", self.hub_files)):
            for split, name in ((split, name) for split, names in files.items() for name in names):
                if Path(name).suffix not in ("", *SOURCES):
                    faults.append(f"{key}.{split}: {name} must be a folder, or end in one of {', '.join(SOURCES)}.")
        return faults
