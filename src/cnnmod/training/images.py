"""Data sets, splits and batches of images, for all tasks."""

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

Counts = Counter[tuple[int | str, int]]  # (value or name in the labels, class) → count


@dataclass(frozen=True)
class Batch:
    """A batch of images and labels.

    Attributes:
        images: (N, C, H, W), normalized. For detection, a list of (C, H, W) with values from 0 to 1.
        labels: (N,) for classification, (N, H, W) for segmentation, one dictionary per image for detection.
        broken: The errors of images that could not be read. They are not part of the batch.
    """

    images: Any
    labels: Any
    broken: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> "Batch":
        """Return the batch on another device. A single image tensor is also converted to the memory format."""
        if isinstance(self.images, Tensor):
            images = self.images.to(device, non_blocking=True, memory_format=memory_format)
        else:
            images = [image.to(device, non_blocking=True) for image in self.images]
        labels = tree_map(lambda label: label.to(device, non_blocking=True), self.labels)
        return Batch(images, labels, self.broken)

    def chunk(self, count: int) -> Iterator["Batch"]:
        """Split the batch into at most `count` parts."""
        size = -(-len(self) // count)
        for start in range(0, len(self), size):
            yield Batch(self.images[start : start + size], self.labels[start : start + size])


class Images(Protocol):
    """The images of one split, transformed for the network."""

    def __len__(self) -> int: ...

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        """Yield one batch for each tensor of image indices.

        The augmentation of an image is a function of the seed and the image index. It does not depend on the number of
        processes, or on the step at which an epoch is resumed.

        Args:
            order: The image indices of each batch.
            draw: The seed of the augmentation. Pass `None` for evaluation.
        """
        ...


@dataclass(frozen=True)
class Data:
    """The splits of a data set.

    Attributes:
        train: The training images.
        validation: The images that select the best checkpoint, or `None`.
        test: The test images.
        num_classes: The number of classes. For a task without classes, the number of outputs of the network.
        classes: The names of the classes, or `None` if the data set has no names.
    """

    train: Images
    validation: Images | None
    test: Images
    num_classes: int
    classes: tuple[str, ...] | None


class Dataset(Protocol):
    """The images and labels of one split, decoded on access."""

    def __len__(self) -> int: ...

    def name(self, number: int, /) -> str:
        """Return the name of an image in errors."""
        ...

    def open(self, number: int, channels: int) -> tuple[Image.Image, Any]:
        """Return a decoded image with 3 channels or 1, and its label.

        Raises:
            ValueError: If the image or the label is broken. The error names it.
        """
        ...


@dataclass(frozen=True)
class Broken:
    """An image that cannot be read, and the reason."""

    reason: str


@dataclass(frozen=True)
class DecodedImages:
    """Images that are decoded and transformed when they are needed.

    Attributes:
        dataset: The images and labels.
        transform: A function from an image and a label to their tensors.
        channels: 3, or 1 for gray images.
        numbers: The indices of the images to use. `None` means all. The seed of an augmentation depends on this index.
        stacked: Whether the images and the labels of a batch are stacked into one tensor each, or are lists.
        workers: Number of processes that decode images. 0 decodes in the current process.
        skip_broken: Whether to skip broken images. Otherwise the first one is an error.
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
        samples = [[(int(number), draw) for number in numbers] for numbers in order]
        for batch in DataLoader(
            self,  # pyright: ignore[reportArgumentType]  the class has the methods of a map-style data set
            batch_sampler=samples,  # pyright: ignore[reportArgumentType]  the key of a sample is (index, seed)
            num_workers=min(self.workers, len(samples)),
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
        ):
            if batch.broken and not self.skip_broken:
                raise ValueError(batch.broken[0])
            yield batch

    def count(self, progress: Callable[[int, int], None]) -> Counts:
        """Count the classes in the labels. The data set must have a method `count`."""
        dataset: Any = self.dataset
        numbers = range(len(self)) if self.numbers is None else self.numbers
        return dataset.count(numbers, self.skip_broken, progress)

    def __getitem__(self, sample: tuple[int, int | None]) -> tuple[Tensor, Any] | Broken:
        """Return the tensors of a sample (index, seed), or the reason why it is broken.

        Errors are returned, since the message of an exception from a worker process contains its traceback.
        """
        index, draw = sample
        number = index if self.numbers is None else self.numbers[index]
        _seed_generators(draw, number)
        try:
            image, label = self.dataset.open(number, self.channels)
        except ValueError as error:
            return Broken(str(error))
        try:
            return self.transform(image, label)
        except ValueError as error:
            return Broken(f"{self.dataset.name(number)} {error}")

    def _collate(self, examples: Sequence[tuple[Tensor, Any] | Broken]) -> Batch:
        valid = [example for example in examples if not isinstance(example, Broken)]
        broken = [example.reason for example in examples if isinstance(example, Broken)]
        return collate(valid, self.stacked, broken)


def collate(examples: Sequence[tuple[Tensor, Any]], stacked: bool = True, broken: Sequence[str] = ()) -> Batch:
    """Build a batch of images and labels, as one tensor each or as lists. An empty batch has two empty lists."""
    images, labels = [image for image, _ in examples], [label for _, label in examples]
    if not (stacked and images):
        return Batch(images, labels, broken)
    return Batch(torch.stack(images), torch.stack([torch.as_tensor(label) for label in labels]), broken)


def first_of_shuffled(count: int | None, total: int, name: object) -> Sequence[int]:
    """Return the first `count` of the indices 0 to `total` - 1 in a shuffled order. If `count` is `None`, return all.

    Raises:
        ValueError: If `count` is larger than `total`. The error has the name of the data set.
    """
    if count is None:
        return range(total)
    if count > total:
        raise ValueError(f"train_images is {count}, but {name} has {total} training images")
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].tolist()


def mix_seeds(*numbers: int | str) -> int:
    """Hash several numbers into one seed. Similar numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def _seed_generators(draw: int | None, number: int) -> None:
    """Seed the random generators that transforms use, for one image."""
    if draw is not None:
        seed = mix_seeds(draw, number)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)
