"""Small images, decoded once and kept in memory."""

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
    """Images with a class each.

    Attributes:
        pixels: (N, C, H, W), uint8.
        labels: (N,).
        options: Says how they are normalized.
        crop_flip: Whether they are shifted and mirrored.
        broken: The names of images that could not be read.
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
        """How many images are of each class."""
        return Counter((label, label) for label in self.labels.tolist())

    def batches(self, order: Sequence[Tensor], draw: int | None = None) -> Iterator[Batch]:
        mean, std = self._scale
        changed = self._crop_flip(draw) if draw is not None and self.crop_flip else None
        for numbers in order:
            pixels = changed(numbers) if changed else self.pixels[numbers]
            yield Batch((pixels - mean) / std, self.labels[numbers], self.broken)

    def _crop_flip(self, draw: int) -> Callable[[Tensor], Tensor]:
        """The images of these numbers, each shifted with zeros around it, and mirrored or not, by its own draws."""
        size, most = self.options.size[0], self.options.size[0] // 8
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
    """Decode images of a data set; each has a class as its label.

    Raises:
        ValueError: An image is broken, or with `skip_broken` all are.
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
        raise ValueError(f"all {split} images are broken, the first: {broken[0]}")
    return ImagesInMemory(pixels[: len(labels)], torch.tensor(labels), options, crop_flip, broken)


def pixels_of(image: Image.Image, options: ImageOptions) -> Tensor:
    """(C, H, W), uint8, of the recipe's size."""
    pixels = pil_to_tensor(image)
    size = list(options.size)
    return pixels if list(pixels.shape[1:]) == size else resize(pixels, size, antialias=True)
