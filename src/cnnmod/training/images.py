"""The one way of images, whatever the task: a data set, its splits, and batches of them, decoded as they come."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

Progress = Callable[[str, int, int], None]  # what is done, how much of it, how much there is
Counts = Counter[tuple[int | str, int]]  # of each value or name that labels have, and its class


@dataclass(frozen=True)
class Batch:
    """Some images and what is known of them.

    Attributes:
        images: (N, C, H, W), normalized; to detect in, a list of (C, H, W) from 0 to 1.
        labels: (N,) classes; of segmentation (N, H, W); of detection a dictionary for each image.
        broken: The names of images that could not be read, and are not in it.
    """

    images: Any
    labels: Any
    broken: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> "Batch":
        """The same on another device; images that are one tensor, in a memory format."""
        if isinstance(self.images, Tensor):
            images = self.images.to(device, non_blocking=True, memory_format=memory_format)
        else:
            images = [image.to(device, non_blocking=True) for image in self.images]
        labels = tree_map(lambda label: label.to(device, non_blocking=True), self.labels)
        return Batch(images, labels, self.broken)

    def chunk(self, count: int) -> Iterator["Batch"]:
        """The same in so many parts."""
        size = -(-len(self) // count)
        for start in range(0, len(self), size):
            yield Batch(self.images[start : start + size], self.labels[start : start + size])


class Images(Protocol):
    """The images of one split, as the network sees them."""

    def __len__(self) -> int: ...

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        """The images of these numbers, batch by batch; augmented by draws from the seed `draw` if there is one.

        What is drawn for an image depends on the seed and the image's number alone, so that it does not matter how an
        epoch is split over processes, or where it is taken up again.
        """
        ...


@dataclass(frozen=True)
class Data:
    """A data set's splits; `validation` is what the best checkpoint is chosen by, if anything is.

    Attributes:
        num_classes: How many classes there are; of a task without classes, how many outputs its networks have.
        classes: Their names, if the data set has names.
    """

    train: Images
    validation: Images | None
    test: Images
    num_classes: int
    classes: tuple[str, ...] | None


class Dataset(Protocol):
    """The images and labels of one split, not decoded yet."""

    def __len__(self) -> int: ...

    def name(self, number: int, /) -> str:
        """What errors call an image."""
        ...

    def open(self, number: int, channels: int) -> tuple[Image.Image, Any]:
        """Decode an image, with 3 channels or 1, and its label.

        Raises:
            ValueError: One of the two is broken; the error names it.
        """
        ...


@dataclass(frozen=True)
class Broken:
    """The image cannot be read, and why not."""

    reason: str


@dataclass(frozen=True)
class DecodedImages:
    """Images that are decoded as they come, by processes beside the training if there are any.

    Attributes:
        dataset: Where they come from.
        transform: (image, label) → the tensors of both.
        channels: 3, or 1 for gray images.
        numbers: Which of the data set's images; what is drawn for an image depends on this number. `None`: all.
        stacked: Whether images and labels of a batch are one tensor each, or lists.
        workers: How many processes.
        skip_broken: Whether broken images are left out; otherwise the first is an error.
    """

    dataset: Dataset
    transform: Callable[[Image.Image, Any], tuple[Tensor, Any]]
    channels: int = 3
    numbers: Sequence[int] | None = None
    stacked: bool = True
    workers: int = 0
    skip_broken: bool = False

    def __len__(self) -> int:
        return len(self.dataset if self.numbers is None else self.numbers)

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        wanted = [[(int(number), draw) for number in numbers] for numbers in order]
        for batch in DataLoader(
            self,  # pyright: ignore[reportArgumentType]  it has what a map-style data set has
            batch_sampler=wanted,  # pyright: ignore[reportArgumentType]  a number and a seed are an index too
            num_workers=min(self.workers, len(wanted)),
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
        ):
            if batch.broken and not self.skip_broken:
                raise ValueError(batch.broken[0])
            yield batch

    def count(self, progress: Callable[[int, int], None]) -> Counts:
        """How often each class is in the labels, of a data set that counts them."""
        counting: Any = self.dataset
        numbers = range(len(self)) if self.numbers is None else self.numbers
        return counting.count(numbers, self.skip_broken, progress)

    def __getitem__(self, wanted: tuple[int, int | None]) -> tuple[Tensor, Any] | Broken:
        """An error raised in another process would arrive here with that process's traceback as its text."""
        place, draw = wanted
        number = place if self.numbers is None else self.numbers[place]
        _seed_draws(draw, number)
        try:
            image, label = self.dataset.open(number, self.channels)
        except ValueError as error:
            return Broken(str(error))
        try:
            return self.transform(image, label)
        except ValueError as error:
            return Broken(f"{self.dataset.name(number)} {error}")

    def _collate(self, found: Sequence[tuple[Tensor, Any] | Broken]) -> Batch:
        whole = [example for example in found if not isinstance(example, Broken)]
        broken = [example.reason for example in found if isinstance(example, Broken)]
        return collate(whole, self.stacked, broken)


def collate(examples: Sequence[tuple[Tensor, Any]], stacked: bool = True, broken: Sequence[str] = ()) -> Batch:
    """A batch of images and labels: as one tensor each, or as lists; of none of them, two empty lists."""
    images, labels = [image for image, _ in examples], [label for _, label in examples]
    if not (stacked and images):
        return Batch(images, labels, broken)
    return Batch(torch.stack(images), torch.stack([torch.as_tensor(label) for label in labels]), broken)


def first_of_shuffled(count: int | None, there: int, place: object) -> Sequence[int]:
    """So many numbers below `there`, the first of a shuffled order; `None`: all of them.

    Raises:
        ValueError: There are fewer.
    """
    if count is None:
        return range(there)
    if count > there:
        raise ValueError(f"train_images is {count}, but {place} has {there} to train on")
    return torch.randperm(there, generator=torch.Generator().manual_seed(0))[:count].tolist()


def mix_seeds(*numbers: int | str) -> int:
    """One seed of several numbers; near ones give seeds that have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def _seed_draws(draw: int | None, number: int) -> None:
    """Seed all that transforms draw from, for one image."""
    if draw is not None:
        seed = mix_seeds(draw, number)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)
