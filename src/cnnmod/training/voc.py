"""Read annotations of Pascal VOC: one XML file with the boxes of one image."""

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"": False, "0": False, "1": True}


@dataclass(frozen=True)
class Annotation:
    """The content of an annotation.

    Attributes:
        size: The width and height of the image. A side is `None` if it is missing or 0, which some tools write.
        names: The name of each object.
        boxes: xmin, ymin, xmax and ymax of each object, in pixels.
        difficult: Whether each object is difficult. Training and evaluation ignore difficult objects.
    """

    size: tuple[float | None, float | None]
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


def read_annotation(path: Path) -> Annotation:
    """Read an annotation.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is invalid. The error names the file.
    """
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        objects = root.findall("object")
        return Annotation(
            size=(_size(root, "width"), _size(root, "height")),
            names=[_text(item, "name") for item in objects],
            boxes=[[float(_text(item, f"bndbox/{side}")) for side in _SIDES] for item in objects],
            difficult=[_difficult(item) for item in objects],
        )
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not an annotation of Pascal VOC: {error}") from error


def read_boxes(path: Path, size: tuple[int, int], classes: Sequence[str]) -> dict[str, Tensor]:
    """Read the boxes (x1, y1, x2, y2) of an image, their classes, and whether they are difficult.

    Args:
        path: The annotation.
        size: The height and width of the image.
        classes: The names of the classes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the annotation is invalid or does not fit the image. The error names the file.
    """
    height, width = size
    annotation = read_annotation(path)
    for stated, actual, side in zip(annotation.size, (width, height), ("width", "height"), strict=True):
        if stated is not None and stated != actual:
            raise ValueError(f"{path} states an image {side} of {stated:g} pixels, but the image has {actual}")
    for box in annotation.boxes:
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise ValueError(
                f"{path}: the box {box} is empty or outside the image, which has {width} × {height} pixels"
            )
    return {
        "boxes": torch.tensor(annotation.boxes).reshape(-1, 4),
        "labels": torch.tensor(_labels(path, annotation, classes), dtype=torch.long),
        "difficult": torch.tensor(annotation.difficult, dtype=torch.long),
    }


def count_boxes(path: Path, classes: Sequence[str]) -> Counter[tuple[int | str, int]]:
    """Count the boxes of each (name, class), without difficult ones.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is invalid, or an object has an unknown name. The error names the file.
    """
    annotation = read_annotation(path)
    objects = zip(annotation.names, _labels(path, annotation, classes), annotation.difficult, strict=True)
    return Counter((name, label) for name, label, difficult in objects if not difficult)


def _labels(path: Path, annotation: Annotation, classes: Sequence[str]) -> list[int]:
    for name in annotation.names:
        if name not in classes:
            raise ValueError(f"{path} has an object named {name!r}; the classes are {', '.join(classes)}")
    return [classes.index(name) for name in annotation.names]


def _size(root: ElementTree.Element, side: str) -> float | None:
    text = _text(root, f"size/{side}", "0") or "0"
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"its {side} is {text}")
    return value or None


def _difficult(item: ElementTree.Element) -> bool:
    text = _text(item, "difficult", "")
    if text not in _DIFFICULT:
        raise ValueError(f"difficult is {text!r}, not 0 or 1")
    return _DIFFICULT[text]


def _text(element: ElementTree.Element, path: str, default: str | None = None) -> str:
    """Return the text of the only element at a path."""
    elements = element.findall(path)
    if not elements and default is not None:
        return default
    if len(elements) != 1:
        raise ValueError(f"<{element.tag}> must have one <{path}>, not {len(elements)}")
    text = (elements[0].text or "").strip()
    if not text and default is None:
        raise ValueError(f"<{path}> is empty")
    return text
