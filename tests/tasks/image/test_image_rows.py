"""Images in the form that a network reads, in training and in evaluation."""

from itertools import product

import numpy as np
import pytest
import torch

from kdqat_cli.networks.nets import new_network
from kdqat_cli.tasks.image.data import Images, load_images
from kdqat_cli.tasks.image.rows import ImageRows, crop_flip
from kdqat_cli.tasks.image.schema import ImageTask
from kdqat_cli.tasks.registry import load_task


@pytest.fixture
def task() -> ImageTask:
    loaded = load_task("digits")
    assert isinstance(loaded, ImageTask)
    return loaded


def test_a_batch_is_normalised(task: ImageTask) -> None:
    rows = ImageRows(task, load_images(task, "dev"))
    batch = rows.collate("longest")([rows.examples[3], rows.examples[5]])
    expected = (rows.images.pixels[[3, 5]] / 255 - 0.5) / 0.5
    assert np.allclose(batch["pixel_values"].numpy(), expected, atol=1e-6)
    assert batch["labels"].tolist() == rows.labels[[3, 5]].tolist()
    assert batch["counted"].tolist() == [[1], [1]]


def test_a_score_does_not_depend_on_batches_and_keeps_the_mode(task: ImageTask) -> None:
    """The logits of 300 images in passes of 256 equal those of single images; dropout and batch statistics are off."""
    images = load_images(task, "train")
    rows = ImageRows(task, Images(images.pixels[:300], images.labels[:300]))
    model = new_network("conv-digits-small", "image", image=(1, 8, 8), num_labels=10).train()
    logits = rows.logits(model)
    assert model.training
    pixels = (torch.from_numpy(rows.images.pixels).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        alone = torch.cat([model.eval()(image[None]).logits for image in pixels])
    assert np.allclose(logits, alone.numpy(), atol=1e-5)
    scored = rows.score(model)
    assert scored["score"] == scored["accuracy"] == pytest.approx(100 * (logits.argmax(1) == rows.labels).mean())


def test_crop_flip_shifts_and_mirrors_whole_images() -> None:
    """Each result is one of the 81 shifts of the image or of its mirror image; both occur."""
    torch.manual_seed(0)
    image = torch.arange(1, 3 * 6 * 7 + 1, dtype=torch.uint8).view(3, 6, 7)
    framed = torch.nn.functional.pad(image, (4, 4, 4, 4))
    seen = set()
    for out in crop_flip(image.repeat(200, 1, 1, 1)):
        cases = [
            (down, right, mirrored)
            for down, right, mirrored in product(range(9), range(9), (False, True))
            if torch.equal(out.flip(2) if mirrored else out, framed[:, down : down + 6, right : right + 7])
        ]
        assert cases
        seen.add(cases[0])
    assert {mirrored for *_, mirrored in seen} == {False, True}
    assert {down for down, *_ in seen} == {right for _, right, _ in seen} == set(range(9))
    torch.manual_seed(3)
    first = crop_flip(image[None])
    torch.manual_seed(3)
    assert torch.equal(crop_flip(image[None]), first)
