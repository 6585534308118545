"""Labeled images that are decoded on access."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from cnnmod.training.decode import decode, decode_file, in_mode
from cnnmod.training.images import Counts


@dataclass(frozen=True)
class Source:
    """The labeled images of one split.

    Attributes:
        labels: The label of each image.
        fetch: A function from an index to an 8-bit image, an image file or its content, or `None` if the image is
            missing.
        name: A function from an index to the name of the image in errors.
    """

    labels: Sequence[int]
    fetch: Callable[[int], Image.Image | Path | bytes | None]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, number: int, channels: int = 3) -> tuple[Image.Image, int]:
        """Return a decoded image with 3 channels or 1, and its label.

        Raises:
            ValueError: If the image is missing, broken or not supported. The error names the image.
        """
        content, name = self.fetch(number), self.name(number)
        if content is None:
            raise ValueError(f"{name} has no image")
        if isinstance(content, Path):
            image = decode_file(content, channels)
        else:
            image = decode(content, name, channels) if isinstance(content, bytes) else in_mode(content, name, channels)
        return image, self.labels[number]

    def count(self, numbers: Sequence[int], _: bool, __: Callable[[int, int], None]) -> Counts:
        """Count the images of each class."""
        return Counter((self.labels[number], self.labels[number]) for number in numbers)


@dataclass(frozen=True)
class Sources:
    """The splits of a data set: `"train"`, and `"validation"` or `"test"` or both.

    Attributes:
        splits: The splits by name.
        classes: The names of the classes, or `None` if the data set has no names.
    """

    splits: Mapping[str, Source]
    classes: tuple[str, ...] | None


def of_array(images: Any, labels: Sequence[int], name: str) -> Source:
    """Return a source for a uint8 array of images, (N, H, W) or (N, H, W, 3)."""
    return Source(labels, partial(_of_array, images), partial(_numbered, name))


def of_files(paths: Sequence[str], labels: Sequence[int]) -> Source:
    """Return a source for image files."""
    return Source(labels, partial(_of_files, paths), partial(_named_file, paths))


def same_classes(classes_by_path: Sequence[tuple[Path, Sequence[str] | None]]) -> tuple[str, ...] | None:
    """Return the names of the classes, after checking that names and order are the same at all paths.

    Raises:
        ValueError: If they differ. The error names two paths and the first class that differs.
    """
    (first, names), *others = classes_by_path
    for path, other in others:
        if names is None or other is None:
            if names is not other:
                named, unnamed = (first, path) if other is None else (path, first)
                raise ValueError(f"{named} names its classes but {unnamed} does not, so they may differ")
        elif list(names) != list(other):
            differing = next(pair for pair in itertools.zip_longest(names, other) if pair[0] != pair[1])
            left, right = ("no class" if name is None else repr(name) for name in differing)
            raise ValueError(
                f"{first} and {path} have different classes ({len(names)} and {len(other)}): the first difference is "
                f"{left} and {right}"
            )
    return None if names is None else tuple(names)


# Module-level functions, since worker processes cannot unpickle lambdas.
def _of_array(images: Any, number: int) -> Image.Image:
    return Image.fromarray(images[number])


def _of_files(paths: Sequence[str], number: int) -> Path:
    return Path(paths[number])


def _numbered(split: str, number: int) -> str:
    return f"{split} image {number}"


def _named_file(paths: Sequence[str], number: int) -> str:
    return paths[number]
