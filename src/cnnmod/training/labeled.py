"""Split a data set of labeled images into training, validation and test images."""

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from cnnmod.records.progress import Progress
from cnnmod.training.images import first_of_shuffled
from cnnmod.training.layouts import find_sources
from cnnmod.training.sources import Source, of_array

logger = logging.getLogger("cnnmod")

_Part = tuple[str, Sequence[int]]  # a split and indices of its images


@dataclass(frozen=True)
class Labeled:
    """A data set of labeled images, split by use. `validation` is `None` if there are no validation images."""

    splits: Mapping[str, Source]
    train: _Part
    validation: _Part | None
    test: _Part
    num_classes: int
    classes: tuple[str, ...] | None


def open_labeled(data: str | Path, validation_fraction: float, train_images: int | None, progress: Progress) -> Labeled:
    """Open a data set of labeled images.

    Args:
        data: `"digits"` (part of scikit-learn), or a folder with a layout of `layouts.py`.
        validation_fraction: The fraction of the training images that is used for validation instead.
        train_images: How many of the remaining images to train on. `None` means all.
        progress: A callback (description, done, total) while Parquet files are read.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If the layout is not supported, a split is missing or empty, a label is out of range, all labels are
            equal, or there are too few images for the validation fraction.
    """
    splits, classes = _digits() if str(data) == "digits" else _sources(Path(data), progress)
    num_classes = _num_classes(data, splits, classes)
    train = torch.arange(len(splits["train"]))
    validation = None
    if validation_fraction:
        try:
            parts: list[Any] = train_test_split(
                train.numpy(), test_size=validation_fraction, stratify=splits["train"].labels, random_state=0
            )
        except ValueError as error:
            raise ValueError(
                f"{data} has too few training images ({len(train)} of {num_classes} classes) for validation_fraction = "
                f"{validation_fraction}: {error}"
            ) from error
        train, held = map(torch.from_numpy, parts)
        validation = ("train", _numbers(held))
    elif "validation" in splits and "test" in splits:
        validation = ("validation", range(len(splits["validation"])))
    train = train[list(first_of_shuffled(train_images, len(train), data))]
    test = "test" if "test" in splits else "validation"
    return Labeled(
        splits=splits,
        train=("train", _numbers(train)),
        validation=validation,
        test=(test, range(len(splits[test]))),
        num_classes=num_classes,
        classes=classes,
    )


def _numbers(indices: Tensor) -> Sequence[int]:
    # A list would be copied in each worker process, since reading it updates reference counts.
    return array("q", torch.sort(indices).values.tolist())


def _digits() -> tuple[dict[str, Source], tuple[str, ...]]:
    """Return scikit-learn's 1,797 scanned digits of 8 × 8 pixels, in a fixed split with balanced classes."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    parts: list[Any] = train_test_split(pixels, labels, test_size=450, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return {
        "train": of_array(train_images, train_labels.tolist(), "digits: train"),
        "test": of_array(test_images, test_labels.tolist(), "digits: test"),
    }, tuple(map(str, range(10)))


def _sources(folder: Path, progress: Progress) -> tuple[dict[str, Source], tuple[str, ...] | None]:
    sources = find_sources(folder, progress)
    splits = dict(sources.splits)
    if "train" not in splits or len(splits) < 2:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; it needs train, and test or validation (val)")
    return splits, sources.classes


def _num_classes(data: str | Path, sources: dict[str, Source], classes: tuple[str, ...] | None) -> int:
    for split, source in sources.items():
        if not len(source):
            raise ValueError(f"{data} has no {split} images")
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
        raise ValueError(f"{data} has training images of only one class, {only}; it needs two or more")
    if len(sources["train"]) < count and not classes:
        raise ValueError(f"{data} has labels up to {count - 1}, but only {len(sources['train'])} training images")
    if missing := [label for label in range(count) if label not in trained]:
        named = ", ".join(str(label) if classes is None else classes[label] for label in missing[:5])
        logger.warning("%s of %s classes have no training image: %s", len(missing), count, named)
    return count
