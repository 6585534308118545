"""Class folders: train/CLASS/*.jpg and val/CLASS/*.jpg, as torchvision's ImageFolder reads them."""

import logging
import os
from pathlib import Path

from torchvision.datasets.folder import make_dataset

from cnnmod.training.decode import IMAGE_SUFFIXES
from cnnmod.training.sources import Source, Sources, of_files, same_classes
from cnnmod.training.splits import folders_by_split, visible

logger = logging.getLogger("cnnmod")


def find_class_folders(folder: Path) -> Sources | None:
    """Find the class folders below a folder. Return `None` if there are none.

    Raises:
        ValueError: If the splits have different classes, a class has no image, or two folders belong to the same split.
    """
    folders = folders_by_split(folder)
    if not folders:
        return None
    names = {path: [inner.name for inner in visible(path) if inner.is_dir()] for path in folders.values()}
    classes = same_classes(list(names.items()))
    return Sources({split: _images(path, names[path]) for split, path in folders.items()}, classes)


def _images(folder: Path, classes: list[str]) -> Source:
    root, others = len(str(folder)), list[str]()

    def is_image(path: str) -> bool:
        if f"{os.sep}." in path[root:]:  # hidden, or in a hidden folder
            return False
        if path.lower().endswith(IMAGE_SUFFIXES):
            return True
        others.append(path)
        return False

    numbers = {name: number for number, name in enumerate(classes)}
    try:
        samples = make_dataset(str(folder), numbers, is_valid_file=is_image)
    except FileNotFoundError as error:  # a class without images
        raise ValueError(
            f"{folder}: {str(error).strip()}; the image suffixes are {', '.join(IMAGE_SUFFIXES)}"
        ) from error
    if others:
        logger.warning("ignoring %s files in %s that are not images, such as %s", len(others), folder, others[0])
    return of_files([path for path, _ in samples], [label for _, label in samples])
