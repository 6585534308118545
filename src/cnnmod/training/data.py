"""Data sets as tensors."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W) in float32 and labels (N,), to train on and to test on."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> ImageData:
    """The 1,797 scanned digits that scikit-learn ships, 1 × 8 × 8, 10 classes: 1,347 to train on, 450 to test on.

    Always the same split, balanced over the classes.

    Example:
        >>> digits().train_images.shape
        torch.Size([1347, 1, 8, 8])
    """
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images.reshape(-1, 1, 8, 8) / 16, labels, test_size=450, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return ImageData(train_images.float(), train_labels, test_images.float(), test_labels)
