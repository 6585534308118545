"""The augmentation of an image is a function of seed, epoch and image index, and is the same in all versions.

The expected numbers are from the first version. They are weighted sums, not hashes, so they do not depend on the
processor or the release of Pillow. A different crop, flip or order changes them.
"""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnnmod.training.data import open_data
from cnnmod.training.images import mix_seeds
from cnnmod.training.recipes import recipe
from pictures import cells, classes, streets

DRAW = mix_seeds("epoch", 0, 1)


def textured(folder: Path, pattern: str) -> None:
    """Overwrite images with random textures, so that every shift changes the sums."""
    for number, path in enumerate(sorted(folder.glob(pattern))):
        with Image.open(path) as image:
            size = image.size
        noise = numpy.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=numpy.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR).save(path)


def labeled(folder: Path) -> Path:
    for split in ("train", "val"):
        classes(folder, split, ["cat", "dog"], count=6)
    for path in folder.glob("*/*/*.png"):
        Image.new("RGB", (24, 20)).save(path)
    textured(folder, "*/*/*.png")
    return folder


def photographs(folder: Path) -> Path:
    streets(folder, train=6, val=2)
    textured(folder, "train/*.png")
    return folder


def smears(folder: Path) -> Path:
    cells(folder, train=6, val=2)
    textured(folder, "JPEGImages/*.jpg")
    return folder


def sums(values: Any) -> list[float]:
    """Return a weighted sum of each image, mask or set of boxes. It depends on the positions of the values."""
    if not isinstance(values, Tensor):
        return [
            round(sum(sums(value["boxes"][None].double())), 2) if isinstance(value, dict) else sums(value[None])[0]
            for value in values
        ]
    flat_NP = values.double().flatten(1) if values.dim() > 1 else values.double()[:, None]
    weights_P = torch.linspace(0.5, 1.5, flat_NP.shape[1], dtype=torch.double)
    return [round(value, 3) for value in ((flat_NP * weights_P).mean(1)).tolist()]


CIFAR = ["image_size=16", "batch_size=2", "validation_fraction=0.25"]
PHOTOS = ["image_size=16", "batch_size=2", "auto_augment=rand-m6-mstd0.5-inc1", "random_erasing=0.5", "train_images=8"]
STREETS = ['classes=["road", "box"]', "ignore=9", "image_size=[48,64]", "crop_size=[32,40]", "photometric=true"]
EXPECTED: dict[str, Any] = {  # sums of images, of labels
    "cifar10_fast": ([-0.166, -0.21, -0.352], [0.0, 0.0, 0.0]),
    "imagenet": ([0.067, -0.327, -0.345], [0.0, 0.0, 0.0]),
    "camvid": ([0.231, 0.301, 0.106], [0.0, 0.14, 0.288]),
    "bccd": ([0.523, 0.502, 0.466], [27.92, 37.08, 37.29]),
}


@pytest.mark.parametrize(
    ("name", "make", "changes"),
    [
        ("cifar10_fast", labeled, CIFAR),
        ("imagenet", labeled, PHOTOS),
        ("camvid", photographs, [*STREETS, "train_images=4"]),
        ("bccd", smears, ["image_size=[64,80]", "train_images=4"]),
    ],
)
def test_augmentation_is_unchanged_since_the_first_version(
    name: str, make: Any, changes: list[str], tmp_path: Path
) -> None:
    data = open_data(make(tmp_path), recipe(name, changes))
    (batch,) = data.train.batches([torch.tensor([3, 0, 2])], DRAW)
    images, labels = EXPECTED[name]
    assert sums(batch.images) == pytest.approx(images, abs=0.01)
    assert sums(batch.labels) == pytest.approx(labels, abs=0.02)
