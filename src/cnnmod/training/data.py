"""A data set as a recipe wants it: which images are trained on, held out and tested on."""

from pathlib import Path

import torch
from torch import Tensor

from cnnmod.training.images import Data, Progress
from cnnmod.training.recipe import Recipe


def open_data(
    place: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    skip_broken: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Data:
    """Open a data set as a recipe wants it.

    Args:
        place: `"digits"`, which scikit-learn ships, or a folder of one of the layouts of `layouts.py`; to segment or
            detect, of `scenes.py`.
        recipe: Says how images are prepared, how many are held out and how many are used.
        workers: Processes that decode, if the images are decoded as they come.
        skip_broken: Leave broken images out, and name them in the batches, instead of stopping at the first.
        progress: Called while Parquet files are read, and while images are decoded into memory.

    Raises:
        OSError: The folder does not exist.
        ValueError: Nothing that is known lies there, a split is missing or empty, a label is out of range, all labels
            are the same, or an image is broken.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> data = open_data("digits", recipe("digits"))
        >>> len(data.train), len(data.test), data.num_classes
        (1347, 450, 10)
    """
    images = recipe.images
    if images.in_channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not in_channels = {images.in_channels}")
    return recipe.task.open_data(place, images, workers=workers, skip_broken=skip_broken, progress=progress)


def calibration_images(data: Data, count: int = 256) -> Tensor:
    """Training images (N, C, H, W) as training sees them, always the same ones; all if there are no more than `count`.

    Raises:
        ValueError: They are to detect in, of sizes of their own.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> calibration_images(open_data("digits", recipe("digits")), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    numbers = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:count]
    images = next(iter(data.train.batches([numbers], draw=0))).images
    if isinstance(images, list):
        raise ValueError("images to detect in have sizes of their own, and make no one tensor to calibrate INT8 on")
    return images
