"""Images of a data set with a class each, not decoded yet."""

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
    """The images of one split.

    Attributes:
        labels: One an image.
        fetch: An image's number → the image in 8 bits, its file, or its file's content; `None` if it is missing.
        name: An image's number → what errors call it.
    """

    labels: Sequence[int]
    fetch: Callable[[int], Image.Image | Path | bytes | None]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, number: int, channels: int = 3) -> tuple[Image.Image, int]:
        """Decode an image, with 3 channels or 1; and its label.

        Raises:
            ValueError: It is missing, broken, or of a kind that is not supported; the error names it.
        """
        found, name = self.fetch(number), self.name(number)
        if found is None:
            raise ValueError(f"{name} has no image")
        if isinstance(found, Path):
            image = decode_file(found, channels)
        else:
            image = decode(found, name, channels) if isinstance(found, bytes) else in_mode(found, name, channels)
        return image, self.labels[number]

    def count(self, numbers: Sequence[int], _: bool, __: Callable[[int, int], None]) -> Counts:
        """How many images are of each class."""
        return Counter((self.labels[number], self.labels[number]) for number in numbers)


@dataclass(frozen=True)
class Sources:
    """The splits of a data set: `"train"`, `"validation"`, `"test"`, those that there are.

    Attributes:
        splits: By name.
        classes: The classes' names, where the data set has names.
    """

    splits: Mapping[str, Source]
    classes: tuple[str, ...] | None


def of_array(images: Any, labels: Sequence[int], name: str) -> Source:
    """Of images that are an array in memory, (N, H, W) or (N, H, W, 3), uint8."""
    return Source(labels, partial(_of_array, images), partial(_numbered, name))


def of_files(paths: Sequence[str], labels: Sequence[int]) -> Source:
    """Of image files."""
    return Source(labels, partial(_of_files, paths), partial(_named_file, paths))


def same_classes(found: Sequence[tuple[Path, Sequence[str] | None]]) -> tuple[str, ...] | None:
    """The classes' names, which must be the same in the same order in each place where they are found.

    Raises:
        ValueError: They differ; the error names two places and the first names that differ.
    """
    (first, names), *others = found
    for place, other in others:
        if names is None or other is None:
            if names is not other:
                named, bare = (first, place) if other is None else (place, first)
                raise ValueError(f"{named} names its classes, {bare} does not, so they may not be the same")
        elif list(names) != list(other):
            differing = next(pair for pair in itertools.zip_longest(names, other) if pair[0] != pair[1])
            one, another = ("no further class" if name is None else f"the class {name!r}" for name in differing)
            raise ValueError(
                f"{first} and {place} have different classes ({len(names)} and {len(other)}): where the first has "
                f"{one}, the second has {another}"
            )
    return None if names is None else tuple(names)


# Functions of their own, since lambdas do not travel to the processes that decode.
def _of_array(images: Any, number: int) -> Image.Image:
    return Image.fromarray(images[number])


def _of_files(paths: Sequence[str], number: int) -> Path:
    return Path(paths[number])


def _numbered(split: str, number: int) -> str:
    return f"{split} image {number}"


def _named_file(paths: Sequence[str], number: int) -> str:
    return paths[number]
