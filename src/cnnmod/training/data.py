"""Open the data set of a recipe: training, validation and test images."""

from pathlib import Path

import torch
from torch import Tensor

from cnnmod.records.progress import Progress
from cnnmod.training.images import Data
from cnnmod.training.recipe import Recipe


def open_data(
    place: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    skip_broken: bool = False,
    progress: Progress = lambda description, done, total: None,
) -> Data:
    """Open a data set for a recipe.

    Args:
        place: `"digits"` (part of scikit-learn) or a folder with a supported layout: see `layouts.py` for
            classification, and `scenes.py` for segmentation and detection.
        recipe: The recipe. It sets how images are prepared, and how many are used for training and validation.
        workers: Number of processes that decode images. Ignored if all images are decoded once.
        skip_broken: Skip broken images and list them in `Batch.broken`. Otherwise the first one is an error.
        progress: A callback (description, done, total) while Parquet files are read and images are decoded into
            memory.

    Raises:
        OSError: If the folder does not exist.
        ValueError: If the layout is not supported, a split is missing or empty, a label is out of range, all labels are
            equal, or an image is broken.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> data = open_data("digits", recipe("digits"))
        >>> len(data.train), len(data.test), data.num_classes
        (1347, 450, 10)
    """
    images = recipe.images
    if images.in_channels not in (1, 3):
        raise ValueError(f"in_channels must be 1 or 3, not {images.in_channels}")
    return recipe.task.open_data(place, images, workers=workers, skip_broken=skip_broken, progress=progress)


def calibration_images(data: Data, count: int = 256) -> Tensor:
    """Return training images (N, C, H, W) for calibration, with the augmentation of training.

    The images and their augmentation are the same in every call.

    Args:
        data: The data set.
        count: How many images to return. All are returned if there are fewer.

    Raises:
        ValueError: If the images are for detection, since their sizes differ.

    Examples:
        >>> from cnnmod.training.recipes import recipe
        >>> calibration_images(open_data("digits", recipe("digits")), 16).shape
        torch.Size([16, 1, 8, 8])
    """
    numbers = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:count]
    images = next(iter(data.train.batches([numbers], draw=0))).images
    if isinstance(images, list):
        raise ValueError("INT8 calibration is not supported for detection: the images have different sizes")
    return images
