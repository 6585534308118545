"""Masks: images whose pixel values are classes."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy
import torch
from torch import Tensor

from cnnmod.training.decode import decode_mask
from cnnmod.training.images import Counts

IGNORED = 255  # the class of pixels that loss and metric ignore


def read_mask(path: Path, size: tuple[int, int], classes: Mapping[int, int]) -> Tensor:
    """Read a mask (H, W) and convert its values to the classes 0, 1, … and `IGNORED`."""
    values_HW = torch.from_numpy(decode_mask(path))
    if values_HW.shape != size:
        height, width = values_HW.shape
        raise ValueError(
            f"{path} has {height} × {width} pixels, but its image has {size[0]} × {size[1]} after EXIF orientation"
        )
    table = torch.full((256,), -1)
    for value, label in classes.items():
        table[value] = label
    mask_HW = table[values_HW.long()]
    if (mask_HW < 0).any():
        raise _unknown(path, int(values_HW[mask_HW < 0][0]), classes)
    return mask_HW.to(torch.uint8)


def count_pixels(path: Path, classes: Mapping[int, int]) -> Counts:
    """Count the pixels of a mask by (value, class).

    Raises:
        ValueError: If the file is not a mask, or has a value that is not a class.
    """
    counts = {value: int(count) for value, count in enumerate(numpy.bincount(decode_mask(path).ravel())) if count}
    for value in counts:
        if value not in classes:
            raise _unknown(path, value, classes)
    return Counter({(value, classes[value]): count for value, count in counts.items()})


def _unknown(path: Path, value: int, classes: Mapping[int, int]) -> ValueError:
    return ValueError(
        f"{path} has pixels with the value {value}; the accepted values are {', '.join(map(str, classes))}"
    )
