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
    """The class folders below a folder, if there are any.

    Raises:
        ValueError: The splits have different classes, a class has no image, or two folders are of one split.
    """
    found = folders_by_split(folder)
    if not found:
        return None
    names = {path: [inner.name for inner in visible(path) if inner.is_dir()] for path in found.values()}
    classes = same_classes(list(names.items()))
    return Sources({split: _images(path, names[path]) for split, path in found.items()}, classes)


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
        found = make_dataset(str(folder), numbers, is_valid_file=is_image)
    except FileNotFoundError as error:  # a class without images
        raise ValueError(f"{folder}: {str(error).strip()}; images end in {', '.join(IMAGE_SUFFIXES)}") from error
    if others:
        logger.warning("files in %s that are no images are ignored: %s, the first: %s", folder, len(others), others[0])
    return of_files([path for path, _ in found], [label for _, label in found])
