"""Small labeled images that are decoded once and kept in memory."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from cnnmod.training.images import Batch, Counts, Dataset
from cnnmod.training.options import ImageOptions


@dataclass(frozen=True)
class ImagesInMemory:
    """Labeled images in memory.

    Attributes:
        pixels: (N, C, H, W), uint8.
        labels: (N,).
        options: The image options, with the mean and standard deviation for normalization.
        crop_flip: Whether images are shifted and flipped at random.
        broken: The errors of images that could not be read.
    """

    pixels: Tensor
    labels: Tensor
    options: ImageOptions
    crop_flip: bool = False
    broken: Sequence[str] = ()
    _scale: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (self.options.mean, self.options.std))
        object.__setattr__(self, "_scale", (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, _: Callable[[int, int], None]) -> Counts:
        """Count the images of each class."""
        return Counter((label, label) for label in self.labels.tolist())

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        mean, std = self._scale
        augment = self._crop_flip(draw) if draw is not None and self.crop_flip else None
        for numbers in order:
            pixels = augment(numbers) if augment else self.pixels[numbers]
            yield Batch((pixels - mean) / std, self.labels[numbers], self.broken)

    def _crop_flip(self, draw: int) -> Callable[[Tensor], Tensor]:
        """Return a function from image indices to images that are shifted with zero padding and flipped at random."""
        size, padding = self.options.size[0], self.options.size[0] // 8
        generator = torch.Generator().manual_seed(draw)
        shifts_N2 = torch.randint(0, 2 * padding + 1, (len(self), 2), generator=generator)
        flipped_N = torch.rand(len(self), generator=generator) < 0.5
        offsets, width = torch.arange(size), size + 2 * padding

        def augment(numbers: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(self.pixels[numbers], (padding, padding, padding, padding))
            rows_NH = shifts_N2[numbers, :1] + offsets
            columns_NW = shifts_N2[numbers, 1:] + torch.where(flipped_N[numbers, None], offsets.flip(0), offsets)
            index_NHW = rows_NH[:, :, None] * width + columns_NW[:, None, :]
            index_NCP = index_NHW.flatten(1)[:, None].expand(-1, padded.size(1), -1)
            return padded.flatten(2).gather(2, index_NCP).unflatten(2, (size, size))

        return augment


def decode_into_memory(
    dataset: Dataset,
    numbers: Sequence[int],
    options: ImageOptions,
    *,
    crop_flip: bool,
    skip_broken: bool,
    split: str,
    progress: Callable[[int, int], None],
) -> ImagesInMemory:
    """Decode the images with these indices of a data set whose labels are classes.

    Raises:
        ValueError: If an image is broken, or with `skip_broken` if all are.
    """
    pixels = torch.empty(len(numbers), options.in_channels, *options.size, dtype=torch.uint8)
    labels: list[int] = []
    broken: list[str] = []
    for done, number in enumerate(numbers, 1):
        try:
            image, label = dataset.open(number, options.in_channels)
            pixels[len(labels)] = pixels_of(image, options)
            labels.append(label)
        except ValueError as error:
            if not skip_broken:
                raise
            broken.append(str(error))
        if done % 1000 == 0 or done == len(numbers):
            progress(done, len(numbers))
    if not labels:
        raise ValueError(f"all {split} images are broken; the first error: {broken[0]}")
    return ImagesInMemory(pixels[: len(labels)], torch.tensor(labels), options, crop_flip, broken)


def pixels_of(image: Image.Image, options: ImageOptions) -> Tensor:
    """Return the pixels of an image, resized to the size of the recipe: (C, H, W), uint8."""
    pixels = pil_to_tensor(image)
    size = list(options.size)
    return pixels if list(pixels.shape[1:]) == size else resize(pixels, size, antialias=True)
