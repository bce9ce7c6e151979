"""Images from every kind of file, and faulty files that are refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.tasks.image.data import load_images
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.registry import load_task

SHAPE = [3, 4, 5]
TASK: dict[str, Any] = {
    "kind": "image",
    "name": "pets",
    "title": "Pets",
    "labels": ["cat", "dog"],
    "metric": "accuracy",
    "image": SHAPE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "network": "conv-digits-small",
}


def pets(folder: Path, **files: list[str]) -> ImageTask:
    return ImageTask.model_validate({**TASK, "files": files}).model_copy(update={"folder": folder})


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def png(values: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()


def test_digits_equal_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    task = load_task("digits")
    assert isinstance(task, ImageTask)
    splits = {split: load_images(task, split) for split in ("train", "dev", "test")}
    assert {split: len(images.labels) for split, images in splits.items()} == {"train": 1295, "dev": 143, "test": 359}
    bunch = load_digits()
    assert splits["test"].labels.tolist() == bunch.target[4::5].tolist()
    first = splits["train"].pixels[0, 0]
    assert first.tolist() == np.rint(bunch.images[0] * 255 / 16).astype(int).tolist()
    assert len({images.digest for images in splits.values()}) == 3


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_binary_files_have_the_label_first(label_bytes: int, tmp_path: Path) -> None:
    """As in CIFAR. CIFAR-100 has the coarse class, then the fine class."""
    images, labels = pixels(12), [0, 1] * 6
    for name, part in (("a.bin", slice(0, 7)), ("b.bin", slice(7, 12))):
        rows = [
            bytes([9] * (label_bytes - 1) + [label]) + image.tobytes()
            for image, label in zip(images[part], labels[part], strict=True)
        ]
        (tmp_path / name).write_bytes(b"".join(rows))
    task = pets(tmp_path, train=["a.bin", "b.bin"]).model_copy(update={"label_bytes": label_bytes})
    dev, train = load_images(task, "dev"), load_images(task, "train")
    assert dev.pixels.tolist() == images[9:10].tolist(), "every tenth"
    assert train.labels.tolist() == labels[:9] + labels[10:]
    assert train.pixels.tolist() == np.delete(images, 9, axis=0).tolist()


def test_a_folder_per_class_a_list_and_a_parquet_file_hold_the_same(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    images = pixels(4)
    for index, image in enumerate(images):
        folder = tmp_path / "train" / ("cat" if index < 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(png(image))
    (tmp_path / "train/cat/notes.txt").write_text("no picture")
    rows = [f"train/{'cat' if index < 2 else 'dog'}/{index}.png,{'cat' if index < 2 else 1}" for index in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    table = {"img": [{"bytes": png(image), "path": None} for image in images], "label": [0, 0, 1, 1]}
    parquet.write_table(arrow.table(table), tmp_path / "hub.parquet")
    for source in ("train", "list.csv", "hub.parquet"):
        found = load_images(pets(tmp_path, train=[source], dev=[source]), "train")
        assert found.pixels.tolist() == images.tolist(), source
        assert found.labels.tolist() == [0, 0, 1, 1]


def cifar(count: int, label_bytes: int, seed: int) -> tuple[bytes, dict[str, list[Any]]]:
    """The same rows as CIFAR's binary files and as the hub's parquet files."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    fine, coarse = draw.integers(0, 10 if label_bytes == 1 else 100, count), draw.integers(0, 20, count)
    rows = [bytes([coarse[index], fine[index]][-label_bytes:]) + image.tobytes() for index, image in enumerate(images)]
    pictures = [{"bytes": png(image), "path": None} for image in images]
    if label_bytes == 1:
        return b"".join(rows), {"img": pictures, "label": fine.tolist()}
    return b"".join(rows), {"img": pictures, "fine_label": fine.tolist(), "coarse_label": coarse.tolist()}


@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_is_the_same_from_its_published_files_and_from_the_hub(
    name: str, label_bytes: int, tmp_path: Path
) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    task = load_task(name)
    assert isinstance(task, ImageTask)
    with pytest.raises(MissingInputError, match=rf"there is no {task.files['train'][0]}"):
        load_images(task, "train", tmp_path)
    published, hub = tmp_path / "published", tmp_path / "hub"
    for split in ("train", "test"):
        parts, columns = [], []
        for number, file in enumerate(task.files[split]):
            rows, table = cifar(20, label_bytes, seed=number)
            (published / file).parent.mkdir(parents=True, exist_ok=True)
            (published / file).write_bytes(rows)
            parts.append(rows)
            columns.append(table)
        path = hub / task.hub_files[split][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.concat_tables(map(arrow.table, columns)), path)
    for split in ("train", "dev", "test"):
        one, other = (load_images(task, split, folder) for folder in (published, hub))
        assert one.digest == other.digest, split
    assert load_images(task, "test", hub).labels.max() > 10 ** (label_bytes - 1) - 5, "the fine class"


def test_a_grey_picture_has_one_channel(tmp_path: Path) -> None:
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/cat/a.png").write_bytes(png(pixels(1)[0]))
    values = {**TASK, "image": [1, 4, 5], "mean": [0.5], "std": [0.5], "files": {"train": ["train"], "dev": ["train"]}}
    task = ImageTask.model_validate(values).model_copy(update={"folder": tmp_path})
    assert load_images(task, "dev").pixels.shape == (1, 1, 4, 5)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.bin",
            bytes(62),
            "62 bytes, which is not a multiple of 61, the size of a row: 1 of label and 3×4×5 of image",
        ),
        ("a.bin", b"", "0 bytes, which is not a multiple of 61"),
        ("a.bin", bytes([7]) + bytes(60), "image 1: the label 7 is unknown; the task has 2"),
        ("a.csv", b"path,label\nx.png,cat\n", "names .*x.png, which is not there"),
        ("a.csv", b"file,class\n", "must have the columns path and label; it has file, class"),
        ("a.csv", b"path,label\nwide.png,cat\n", r"wide.png: an image is 3×4×6, but the images of task pets are 3×4×5"),
        ("a.csv", b"path,label\nbroken.png,cat\n", "broken.png is not a readable picture"),
        ("a.csv", b"path,label\nright.png,cow\n", "the label 'cow' is unknown; the labels are cat, dog"),
        ("a.csv", b"path,label\n", "holds no images in its split train"),
        ("a.parquet", b"PAR1", "is not a readable parquet file"),
    ],
)
def test_each_fault_is_reported_in_one_sentence(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "right.png").write_bytes(png(pixels(1)[0]))
    (tmp_path / "wide.png").write_bytes(png(np.zeros((3, 4, 6), np.uint8)))
    (tmp_path / "broken.png").write_bytes(png(pixels(1)[0])[:40])
    with pytest.raises(MissingInputError, match=said):
        load_images(pets(tmp_path, train=[name], dev=[name]), "train")


def test_a_missing_file_and_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"Task pets: there is no gone.bin in .*") as caught:
        load_images(pets(tmp_path, train=["gone.bin"]), "train")
    assert caught.value.fix == "--data-dir FOLDER, where FOLDER holds gone.bin"
    (tmp_path / "a.bin").write_bytes(bytes(61 * 3))
    with pytest.raises(MissingInputError, match="has only 3 images in train, but every 10th is for dev"):
        load_images(pets(tmp_path, train=["a.bin"]), "dev")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"builtin": "digits"}, "exactly one of builtin and files must be given"),
        ({"files": {"dev": ["a.bin"]}}, "files: train must be given"),
        ({"hub_files": {"test": ["a.parquet"]}}, "hub_files: must have the same splits as files"),
        ({"hub_files": {"train": ["a.zip"]}}, r"hub_files.train: a.zip must be a folder, or end in one of"),
        ({"image": [4, 4, 5]}, "must be 1 or 3 channels"),
        ({"mean": [0.5]}, "each must have 3 numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "every number must be above 0"),
        ({"files": {"train": ["a.zip"]}}, r"a.zip must be a folder, or end in one of .bin, .parquet, .csv"),
        ({"labels": None, "range": [0.0, 1.0], "metric": "pearson"}, "an image has a class, not a number"),
        ({"multi_label": True}, "multi_label: a row of the kind image has one class"),
        ({"kind": "sound"}, "kind is 'sound'; the kinds are text, image, translation"),
        ({"max_length": 3}, "max_length is not a known key"),
    ],
)
def test_errors_of_a_task_file(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump({**TASK, "files": {"train": ["a.bin"]}} | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_task(str(path))
