"""Batches of images: decoded once and kept in memory, or decoded as they come."""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy
import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from cnnmod.training.recipe import Recipe
from cnnmod.training.sources import Source

logger = logging.getLogger("cnnmod")


@dataclass(frozen=True)
class Batch:
    """Some images and what is known of them.

    Attributes:
        images: (N, C, H, W), normalised; to detect in, a list of (C, H, W) from 0 to 1.
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
    """The images of one split."""

    def __len__(self) -> int: ...

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        """The images of these numbers, batch by batch; augmented by draws from the seed `draw` if there is one.

        What is drawn for an image depends on the seed and the image's number alone, so that it does not matter how an
        epoch is split over processes, or where it is taken up again.
        """
        ...


def mix_seeds(*numbers: int | str) -> int:
    """One seed of several numbers; near ones give seeds that have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


@dataclass(frozen=True)
class ImagesInMemory:
    """Small images, decoded: (N, C, H, W), uint8."""

    pixels: Tensor
    labels: Tensor
    recipe: Recipe
    broken: Sequence[str] = ()
    _scale: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (self.recipe.mean, self.recipe.std))
        object.__setattr__(self, "_scale", (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        mean, std = self._scale
        changed = self._crop_flip(draw) if draw is not None and self.recipe.augmentation == "crop_flip" else None
        for numbers in order:
            pixels = changed(numbers) if changed else self.pixels[numbers]
            yield Batch((pixels - mean) / std, self.labels[numbers], self.broken)

    def _crop_flip(self, draw: int) -> Callable[[Tensor], Tensor]:
        """The images of these numbers, each shifted with zeros around it, and mirrored or not, by its own draws."""
        size, most = self.recipe.size[0], self.recipe.size[0] // 8
        generator = torch.Generator().manual_seed(draw)
        shifts_N2 = torch.randint(0, 2 * most + 1, (len(self), 2), generator=generator)
        mirrored_N = torch.rand(len(self), generator=generator) < 0.5
        along, width = torch.arange(size), size + 2 * most

        def changed(numbers: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(self.pixels[numbers], (most, most, most, most))
            rows_NH = shifts_N2[numbers, :1] + along
            columns_NW = shifts_N2[numbers, 1:] + torch.where(mirrored_N[numbers, None], along.flip(0), along)
            place_NHW = rows_NH[:, :, None] * width + columns_NW[:, None, :]
            place_NCP = place_NHW.flatten(1)[:, None].expand(-1, padded.size(1), -1)
            return padded.flatten(2).gather(2, place_NCP).unflatten(2, (size, size))

        return changed


@dataclass(frozen=True)
class DecodedImages:
    """Images that are decoded as they come, by processes beside the training if there are any.

    Attributes:
        dataset: (number, seed) → an image and its label, or the error of one that is broken.
        collate: What makes a batch of these.
        workers: How many processes.
    """

    dataset: Any
    collate: Callable[[list[Any]], Batch]
    workers: int

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        wanted = [[(int(number), draw) for number in numbers] for numbers in order]
        yield from DataLoader(
            self.dataset,
            batch_sampler=wanted,  # pyright: ignore[reportArgumentType]  a number and a seed are an index too
            num_workers=min(self.workers, len(wanted)),
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
        )


def draw_from(draw: int | None, number: int) -> None:
    """Seed all that transforms draw from, for one image."""
    if draw is not None:
        seed = mix_seeds(draw, number)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)


def decoded(
    source: Source, numbers: Tensor, recipe: Recipe, training: bool, workers: int, skip_broken: bool
) -> DecodedImages:
    """Photographs with a label each, prepared as timm does."""
    return DecodedImages(_Transformed(source, numbers, recipe, training, skip_broken), _collate, workers)


class _Transformed(Dataset):  # pyright: ignore[reportMissingTypeArgument]  of tuples
    def __init__(self, source: Source, numbers: Tensor, recipe: Recipe, training: bool, skip_broken: bool) -> None:
        self.source, self.numbers, self.recipe, self.skip_broken = source, numbers, recipe, skip_broken
        augmentation = {"auto_augment": recipe.auto_augment, "re_prob": recipe.random_erasing, "color_jitter": 0.0}
        try:
            self.transform = create_transform(
                (recipe.in_channels, *recipe.size),
                is_training=training,
                mean=recipe.mean,
                std=recipe.std,
                crop_pct=recipe.crop_pct,
                **(augmentation if training else {}),
            )
        except (AssertionError, ValueError, TypeError) as error:  # what timm raises at a policy that it does not know
            raise ValueError(f"auto_augment {recipe.auto_augment!r} is no policy of timm's: {error}") from error

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def labels(self) -> Tensor:
        """Of each image."""
        return torch.as_tensor(self.source.labels)[self.numbers]

    def __getitem__(self, wanted: tuple[int, int | None]) -> tuple[Tensor, int] | str:
        place, draw = wanted
        number = int(self.numbers[place])
        draw_from(draw, number)
        try:
            image = in_colour(self.source.open(number), self.recipe.in_channels)
        except ValueError as error:
            if not self.skip_broken:
                raise
            return str(error)
        transform: Any = self.transform
        return transform(image), self.source.labels[number]


def _collate(images: list[tuple[Tensor, int] | str]) -> Batch:
    whole = [image for image in images if not isinstance(image, str)]
    broken = [image for image in images if isinstance(image, str)]
    if not whole:
        raise ValueError(f"all images of a batch are broken, the first: {broken[0]}")
    return Batch(torch.stack([image for image, _ in whole]), torch.tensor([label for _, label in whole]), broken)


_said: set[tuple[str, int]] = set()


def in_colour(image: Any, channels: int) -> Any:
    """The image with three channels, or with one; another kind is converted, which is said once."""
    wanted = {1: "L", 3: "RGB"}.get(channels)
    if wanted is None:
        raise ValueError(f"images have 1 or 3 channels, not in_channels = {channels}")
    if image.mode == wanted:
        return image
    if (image.mode, channels) not in _said:
        _said.add((image.mode, channels))
        logger.warning("some images are %s, not %s, and are converted", image.mode, wanted)
    return image.convert(wanted)
