"""`Description`: what a file says about its images and classes, and the normalization of images."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NORMALIZED = "float32 NCHW, normalized"
PIXELS = "uint8 NHWC, 0 to 255"
_COLORS = {1: "gray", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says about its images and classes.

    Attributes:
        channels: The number of channels of an image.
        size: Height and width of the images in pixels.
        mean: The mean of each channel, with pixel values from 0 to 1. `None` if it is not known.
        std: The standard deviation of each channel. `None` if it is not known.
        classes: The class names. `None` if they are not known.
        preprocessing: Whether the file takes pixels (N, H, W, C) in uint8 and normalizes them itself.

    Raises:
        ValueError: If the fields do not fit together.

    Examples:
        >>> about = Description(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), preprocessing=True)
        >>> about.metadata()["input"]
        'uint8 NHWC, 0 to 255'
        >>> about.pixels(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 8, 8, 1])
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: bool = False

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        if self.preprocessing and self.mean is None:
            raise ValueError("preprocessing needs mean and std, the statistics with which the images were normalized")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and (len(values) != self.channels or not all(map(math.isfinite, values))):
                raise ValueError(f"{name} must have one number for each of the {self.channels} channels, not {values}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be > 0, not {self.std}")

    def metadata(self) -> dict[str, str]:
        """Return the entries of the file. `mean`, `std`, `input_size` and `class_names` are JSON."""
        entries = {"input": PIXELS if self.preprocessing else NORMALIZED, "input_size": json.dumps(self.size)}
        if self.mean is not None and self.std is not None:
            entries |= {"mean": json.dumps(self.mean), "std": json.dumps(self.std)}
            if self.channels in _COLORS:
                entries["color_order"] = _COLORS[self.channels]
        if self.classes is not None:
            entries["class_names"] = json.dumps(self.classes, ensure_ascii=False)
        return entries

    def normalized(self, pixels_NHWC: Tensor) -> Tensor:
        """Return the normalized images (N, C, H, W) of pixels (N, H, W, C) in uint8."""
        mean_C11, std_C11 = self._statistics()
        return (pixels_NHWC.permute(0, 3, 1, 2) / 255 - mean_C11) / std_C11

    def pixels(self, images_NCHW: Tensor) -> Tensor:
        """Return the pixels (N, H, W, C) in uint8 that are closest to normalized images (N, C, H, W)."""
        mean_C11, std_C11 = self._statistics()
        values_NCHW = ((images_NCHW * std_C11 + mean_C11) * 255).round().clamp(0, 255)
        return values_NCHW.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def closest(self, images_NCHW: Tensor) -> Tensor:
        """Return the closest images that the file can take: with preprocessing, those of whole pixel values."""
        return self.normalized(self.pixels(images_NCHW)) if self.preprocessing else images_NCHW

    def input_of(self, images_NCHW: Tensor) -> Tensor:
        """Return the input of the file for images."""
        return self.pixels(images_NCHW) if self.preprocessing else images_NCHW

    def _statistics(self) -> tuple[Tensor, Tensor]:
        assert self.mean is not None
        assert self.std is not None
        return torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]


def described(
    example: Tensor,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
    preprocessing: bool,
) -> Description:
    """Return the description of a file for images like the example (N, C, H, W).

    Raises:
        ValueError: As `Description`.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes or ()):
        raise ValueError(f"classes must be a list of names, not {classes!r}")
    _, channels, height, width = example.shape
    return Description(
        channels=channels,
        size=(height, width),
        mean=None if mean is None else tuple(map(float, mean)),
        std=None if std is None else tuple(map(float, std)),
        classes=None if classes is None else tuple(classes),
        preprocessing=preprocessing,
    )
