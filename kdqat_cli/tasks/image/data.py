"""The images of a task and their classes, from local files or from scikit-learn. Every image is checked."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.errors import MissingInputError, shown
from kdqat_cli.files import is_there, lines, read_bytes
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.labels import Labels
from kdqat_cli.tasks.sources import data_folders, found_in

_LARGEST = 2**31  # bytes of one .bin file
_LARGEST_IMAGE = 2**26  # bytes of one picture file
_LONGEST_LINE = 2**16  # bytes of a line of a .csv
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
_TEST = 5  # every fifth row of the built-in digits is in the test split


@dataclass(frozen=True)
class Images:
    """Images with their classes.

    Attributes:
        pixels: (rows, channels, height, width), uint8.
        labels: (rows,), class indices.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """sha256 over all rows in their order."""
        state = hashlib.sha256(str(self.pixels.shape).encode())
        state.update(np.ascontiguousarray(self.pixels).data)
        state.update(np.ascontiguousarray(self.labels).data)
        return state.hexdigest()

    def first(self, limit: int | None) -> "Images":
        """The first `limit` rows; None: all."""
        return Images(self.pixels[:limit], self.labels[:limit])

    def chosen(self, rows: NDArray[np.bool_]) -> "Images":
        """The rows whose entry in the mask (rows,) is true."""
        return Images(self.pixels[rows], self.labels[rows])


def load_images(task: ImageTask, split: str, data_dir: Path | None = None) -> Images:
    """Loads the rows of one split. If the task has no dev file, dev is every `held_out`-th row of train.

    Args:
        task: the task.
        split: train, dev, or another split of the task.
        data_dir: the user's folder of local data, or None.

    Raises:
        MissingInputError: no source has the split, a file cannot be read, or an image or label is wrong.
    """
    folders = data_folders(task, data_dir)
    if split not in ("train", "dev") or (split == "dev" and "dev" in task.files):
        return _read(task, split, folders)
    train = _read(task, "train", folders)
    if "dev" in task.files:
        return train
    held_out = np.arange(len(train.labels)) % task.held_out == task.held_out - 1
    images = train.chosen(held_out if split == "dev" else ~held_out)
    if not len(images.labels):
        raise MissingInputError(
            f"Task {task.name} has only {len(train.labels)} images in train, but every {task.held_out}th is for dev.",
            "a smaller held_out in the task file, or files.dev",
        )
    return images


def _read(task: ImageTask, split: str, folders: list[Path]) -> Images:
    if task.builtin is not None:
        return _digits(task, split)
    parts = []
    for name in _names(task, split, folders):
        path = found_in(folders, name, task)
        parts.append(_READERS[path.suffix](path, task) if path.is_file() else _folder(path, task))
    if not any(len(part.labels) for part in parts):
        raise MissingInputError(f"Task {task.name} holds no images in its split {split}.")
    return Images(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))


def _names(task: ImageTask, split: str, folders: list[Path]) -> list[str]:
    """The files of a split: those in `files`, or those in `hub_files` if only these exist."""

    def there(names: list[str]) -> bool:
        return any(is_there(folder / name) for name in names for folder in folders)

    names, others = task.files.get(split, []), task.hub_files.get(split, [])
    return others if there(others) and not there(names) else names


def _digits(task: ImageTask, split: str) -> Images:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # scikit-learn's values are 0 to 16; here they are bytes.
    pixels = np.rint(bunch.images[:, None] * (255 / 16)).astype(np.uint8)
    images = Images(pixels, bunch.target.astype(np.int64))
    _check_shape(images.pixels, task, "scikit-learn's digits")
    test = np.arange(len(images.labels)) % _TEST == _TEST - 1
    return images.chosen(test if split == "test" else ~test)


def _binary(path: Path, task: ImageTask) -> Images:
    """Reads CIFAR's binary format: each row has its label bytes, then all values of each channel in turn."""
    channels, height, width = task.image
    size = task.label_bytes + channels * height * width
    data = np.frombuffer(read_bytes(path, _LARGEST), np.uint8)
    if not len(data) or len(data) % size:
        raise MissingInputError(
            f"{path} has {len(data)} bytes, which is not a multiple of {size}, the size of a row: {task.label_bytes} "
            f"of label and {'×'.join(map(str, task.image))} of image.",
            "label_bytes and image in the task file",
        )
    rows = data.reshape(-1, size)
    labels = rows[:, task.label_bytes - 1].astype(np.int64)
    if wrong := np.flatnonzero(labels >= task.num_labels).tolist():
        raise MissingInputError(
            f"{path}, image {wrong[0] + 1}: the label {labels[wrong[0]]} is unknown; the task has {task.num_labels}."
        )
    return Images(rows[:, task.label_bytes :].reshape(-1, channels, height, width), labels)


def _parquet(path: Path, task: ImageTask) -> Images:
    """Reads the hub's parquet format: a column of pictures and a column of classes."""
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise MissingInputError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}.") from error
    columns = table.column_names
    image = next((name for name in ("img", "image") if name in columns), None)
    label = next((name for name in ("label", "fine_label") if name in columns), None)
    if image is None or label is None:
        raise MissingInputError(f"{path} must have the columns img or image, and label; it has {', '.join(columns)}.")

    def rows() -> Iterator[tuple[str, bytes, object]]:
        pairs = zip(table[image].to_pylist(), table[label].to_pylist(), strict=True)
        for number, (value, given) in enumerate(pairs, 1):
            where = f"{path}, row {number}"
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise MissingInputError(f"{where}: the column {image} has no picture.")
            yield where, data, given

    return _pictures(task, rows())


def _listed(path: Path, task: ImageTask) -> Images:
    """Reads a .csv file with the columns path (relative to the file) and label."""

    def rows() -> Iterator[tuple[str, bytes, object]]:
        reader = csv.DictReader(lines(path, _LONGEST_LINE))
        if not {"path", "label"} <= set(reader.fieldnames or []):
            given = ", ".join(reader.fieldnames or []) or "nothing"
            raise MissingInputError(f"{path} must have the columns path and label; it has {given}.")
        for row in reader:
            name = row["path"] or ""
            yield f"{path}, line {reader.line_num}: {name}", _file(path.parent / name, path), row["label"]

    return _pictures(task, rows())


def _folder(path: Path, task: ImageTask) -> Images:
    """Reads one folder of pictures per class, in the order of the names of the files."""
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def rows() -> Iterator[tuple[str, bytes, object]]:
        for folder in classes:
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in _PICTURES:
                    yield str(file), _file(file, path), folder.name

    return _pictures(task, rows())


def read_picture(path: Path, task: ImageTask) -> NDArray[np.uint8]:
    """Reads a picture of the task's size as an array (channels, height, width).

    Raises:
        MissingInputError: the file is missing, cannot be read, or has another size.
    """
    if not is_there(path):
        raise MissingInputError(f"There is no picture {path}.")
    image = _decoded(read_bytes(path, _LARGEST_IMAGE), task.image[0], str(path))
    _check_shape(image[None], task, str(path))
    return image


def _file(path: Path, named_in: Path) -> bytes:
    if not is_there(path):
        raise MissingInputError(f"{named_in} names {path}, which is not there.")
    return read_bytes(path, _LARGEST_IMAGE)


def _pictures(task: ImageTask, rows: Iterator[tuple[str, bytes, object]]) -> Images:
    """Decodes rows of (place for errors, picture file in any format that Pillow reads, label)."""
    known = Labels(task.labels, None)
    pixels, labels = [], []
    for where, data, given in rows:
        label = known.value(given)
        if label is None:
            raise MissingInputError(f"{where}: the label {shown(given)} {known.fault()}.")
        image = _decoded(data, task.image[0], where)
        _check_shape(image[None], task, where)
        pixels.append(image)
        labels.append(int(label))
    return Images(np.array(pixels, np.uint8).reshape(-1, *task.image), np.array(labels, np.int64))


def _decoded(data: bytes, channels: int, where: str) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as picture:
            values = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MissingInputError(f"{where} is not a readable picture: {error}.") from error
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes an image (channels, height, width), with one or three channels, as the bytes of a PNG file."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "png")
    return file.getvalue()


def _check_shape(pixels: NDArray[np.uint8], task: ImageTask, where: str) -> None:
    if list(pixels.shape[1:]) != task.image:
        found, wanted = ("×".join(map(str, shape)) for shape in (pixels.shape[1:], task.image))
        raise MissingInputError(f"{where}: an image is {found}, but the images of task {task.name} are {wanted}.")


_READERS: dict[str, Callable[[Path, ImageTask], Images]] = {".bin": _binary, ".parquet": _parquet, ".csv": _listed}
