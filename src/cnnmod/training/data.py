"""A data set as a recipe wants it: which images are trained on, held out and tested on."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from cnnmod.training.images import Batch, Images, ImagesInMemory, decoded
from cnnmod.training.layouts import find_sources
from cnnmod.training.recipe import Recipe
from cnnmod.training.scene_images import scene_images
from cnnmod.training.scenes import find_scenes, unlabelled
from cnnmod.training.sources import Progress, Source, of_array, of_files

logger = logging.getLogger("cnnmod")


@dataclass(frozen=True)
class Data:
    """A data set's splits; `validation` is what the best checkpoint is chosen by, if anything is.

    Attributes:
        num_classes: How many classes there are.
        classes: Their names, if the data set has names.
    """

    train: Images
    validation: Images | None
    test: Images
    num_classes: int
    classes: tuple[str, ...] | None


def open_data(
    place: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    skip_broken: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Data:
    """Open a data set as a recipe wants it.

    Args:
        place: `"digits"`, which scikit-learn ships, or a folder of one of the layouts of `layouts.py`; to segment or
            detect, of `scenes.py`.
        recipe: Says how images are prepared, how many are held out and how many are used.
        workers: Processes that decode, if the images are decoded as they come.
        skip_broken: Leave broken images out, and name them in the batches, instead of stopping at the first.
        progress: Called while Parquet files are read, and while images are decoded into memory.

    Raises:
        OSError: The folder does not exist.
        ValueError: Nothing that is known lies there, a split is missing or empty, a label is out of range, all labels
            are the same, or an image is broken.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> data = open_data("digits", recipe("digits"))
        >>> len(data.train), len(data.test), data.num_classes
        (1347, 450, 10)
    """
    if recipe.in_channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not in_channels = {recipe.in_channels}")
    if recipe.task != "classification":
        return _open_scenes(place, recipe, workers, skip_broken)
    sources, classes = _digits() if str(place) == "digits" else _sources(Path(place), progress)
    num_classes = _num_classes(place, sources, classes)
    train = torch.arange(len(sources["train"]))
    validation = None
    if recipe.validation_fraction:
        parts: list[Any] = train_test_split(
            train.numpy(), test_size=recipe.validation_fraction, stratify=sources["train"].labels, random_state=0
        )
        train, held = map(torch.from_numpy, parts)
        validation = ("train", torch.sort(held).values)
    elif "validation" in sources and "test" in sources:
        validation = ("validation", torch.arange(len(sources["validation"])))
    test = "test" if "test" in sources else "validation"
    if recipe.train_images is not None:
        train = train[_first(recipe.train_images, len(train), place)]

    def made(split: str, numbers: Tensor, training: bool) -> Images:
        if recipe.augmentation == "resized_crop":
            return decoded(sources[split], numbers, recipe, training, workers, skip_broken)
        return _in_memory(split, sources[split], numbers, recipe, training, skip_broken, progress)

    return Data(
        train=made("train", torch.sort(train).values, True),
        validation=None if validation is None else made(*validation, False),
        test=made(test, torch.arange(len(sources[test])), False),
        num_classes=num_classes,
        classes=classes,
    )


def _open_scenes(place: str | Path, recipe: Recipe, workers: int, skip_broken: bool) -> Data:
    splits, classes = find_scenes(Path(place), recipe)
    for split in ("train", "validation"):
        if not len(splits.get(split, ())):
            raise ValueError(f"{place} has no image to {'train on' if split == 'train' else 'validate on'}")
    if recipe.train_images is not None:
        splits["train"] = splits["train"].part(_first(recipe.train_images, len(splits["train"]), place).tolist())

    def made(split: str, training: bool) -> Images:
        return scene_images(splits[split], recipe, training, workers, skip_broken)

    return Data(
        train=made("train", True),
        validation=made("validation", False) if "test" in splits else None,
        test=made("test" if "test" in splits else "validation", False),
        num_classes=len(classes),
        classes=classes,
    )


def image_of_file(file: Path, recipe: Recipe) -> Batch:
    """An image file as the recipe's network is tested on it; what its label says means nothing.

    Raises:
        ValueError: It is broken; the error names it.
    """
    first = torch.arange(1)
    if recipe.task != "classification":
        images: Images = scene_images(unlabelled([file], recipe.task), recipe, False, workers=0, skip_broken=False)
    elif recipe.augmentation == "resized_crop":
        images = decoded(of_files([str(file)], [0]), first, recipe, False, workers=0, skip_broken=False)
    else:
        source = of_files([str(file)], [0])
        images = _in_memory("given", source, first, recipe, False, False, lambda what, done, total: None)
    (batch,) = images.batches([first])
    return batch


def _first(count: int, there: int, place: str | Path) -> Tensor:
    """So many numbers, the first of a shuffled order."""
    if count > there:
        raise ValueError(f"train_images is {count}, but {place} has {there} to train on")
    return torch.randperm(there, generator=torch.Generator().manual_seed(0))[:count]


def calibration_images(data: Data, count: int = 256) -> Tensor:
    """Training images (N, C, H, W) as training sees them, always the same ones; all if there are no more than `count`.

    Raises:
        ValueError: They are to detect in, of sizes of their own.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> calibration_images(open_data("digits", recipe("digits")), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    numbers = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:count]
    images = next(iter(data.train.batches([numbers], draw=0))).images
    if isinstance(images, list):
        raise ValueError("images to detect in have sizes of their own, and make no one tensor to calibrate INT8 on")
    return images


def _in_memory(
    split: str, source: Source, numbers: Tensor, recipe: Recipe, training: bool, skip_broken: bool, progress: Progress
) -> ImagesInMemory:
    size = list(recipe.size)
    pixels = torch.empty(len(numbers), recipe.in_channels, *size, dtype=torch.uint8)
    broken: list[str] = []
    whole = torch.ones(len(numbers), dtype=torch.bool)
    for place, number in enumerate(numbers.tolist()):
        try:
            image = pil_to_tensor(source.open(number, recipe.in_channels))
            pixels[place] = image if list(image.shape[1:]) == size else resize(image, size, antialias=True)
        except ValueError as error:
            if not skip_broken:
                raise
            broken.append(str(error))
            whole[place] = False
        if place % 1000 == 999 or place + 1 == len(numbers):
            progress(f"decoding {'train' if training else split} images", place + 1, len(numbers))
    if len(broken) == len(numbers):
        raise ValueError(f"all {split} images are broken, the first: {broken[0]}")
    labels = torch.as_tensor(source.labels)[numbers]
    return ImagesInMemory(pixels[whole], labels[whole], recipe, broken)


def _digits() -> tuple[dict[str, Source], tuple[str, ...]]:
    """scikit-learn's 1,797 scanned digits, 8 × 8: always the same split, balanced over the classes."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    parts: list[Any] = train_test_split(pixels, labels, test_size=450, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return {
        "train": of_array(train_images, train_labels.tolist(), "digits: train"),
        "test": of_array(test_images, test_labels.tolist(), "digits: test"),
    }, tuple(map(str, range(10)))


def _sources(folder: Path, progress: Progress) -> tuple[dict[str, Source], tuple[str, ...] | None]:
    found = find_sources(folder, progress)
    splits = dict(found.splits)
    if "train" not in splits or len(splits) < 2:
        raise ValueError(f"{folder} has images to {' and '.join(splits)}; it needs train, and test or validation (val)")
    return splits, found.classes


def _num_classes(place: str | Path, sources: dict[str, Source], classes: tuple[str, ...] | None) -> int:
    for split, source in sources.items():
        if not len(source):
            raise ValueError(f"{place} has no {split} image")
    trained = set(sources["train"].labels)
    count = len(classes) if classes else max(trained) + 1
    for split, source in sources.items():
        for number, label in enumerate(source.labels):
            if not 0 <= label < count:
                raise ValueError(f"{source.name(number)} ({split}) has the label {label}; there are {count} classes")
            if not classes and label not in trained:
                raise ValueError(f"{source.name(number)} ({split}) has the label {label}, which no training image has")
    if len(trained) < 2:
        only = min(trained) if classes is None else repr(classes[min(trained)])
        raise ValueError(f"{place} has training images of one class only, {only}; it needs two or more")
    if len(sources["train"]) < count and not classes:
        raise ValueError(f"{place} has labels up to {count - 1}, but only {len(sources['train'])} training images")
    if missing := [label for label in range(count) if label not in trained]:
        named = ", ".join(str(label) if classes is None else classes[label] for label in missing[:5])
        logger.warning("%s of %s classes have no training image: %s", len(missing), count, named)
    return count
