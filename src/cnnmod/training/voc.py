"""An annotation of Pascal VOC: the XML file with the boxes of one image."""

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
    """What a file says.

    Attributes:
        size: The image's width and height; `None` for what is not given or 0, which some tools write.
        names: Of the objects.
        boxes: Their xmin, ymin, xmax and ymax, in pixels.
        difficult: Which of them count nowhere.
    """

    size: tuple[float | None, float | None]
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


def read_annotation(path: Path) -> Annotation:
    """Read a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file; the error names it.
    """
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            raise ValueError(f"it holds <{root.tag}>, not <annotation>")
        objects = root.findall("object")
        return Annotation(
            size=(_size(root, "width"), _size(root, "height")),
            names=[_text(one, "name") for one in objects],
            boxes=[[float(_text(one, f"bndbox/{side}")) for side in _SIDES] for one in objects],
            difficult=[_difficult(one) for one in objects],
        )
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is no annotation of Pascal VOC: {error}") from error


def read_boxes(path: Path, size: tuple[int, int], classes: Sequence[str]) -> dict[str, Tensor]:
    """The boxes (x1, y1, x2, y2) of an image of this height and width, their classes, and which are difficult.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no annotation, or none of this image; the error names it.
    """
    height, width = size
    found = read_annotation(path)
    for given, actual, side in zip(found.size, (width, height), ("wide", "high"), strict=True):
        if given is not None and given != actual:
            raise ValueError(f"{path} says that its image is {given:g} pixels {side}, but it is {actual}")
    for box in found.boxes:
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise ValueError(f"{path}: the box {box} is empty, or outside of the image of {width} × {height} pixels")
    return {
        "boxes": torch.tensor(found.boxes).reshape(-1, 4),
        "labels": torch.tensor(_labels(path, found, classes), dtype=torch.long),
        "difficult": torch.tensor(found.difficult, dtype=torch.long),
    }


def count_boxes(path: Path, classes: Sequence[str]) -> Counter[tuple[int | str, int]]:
    """How many boxes that are not difficult a file has of each name and its class.

    Raises:
        As `read_annotation`.
    """
    found = read_annotation(path)
    objects = zip(found.names, _labels(path, found, classes), found.difficult, strict=True)
    return Counter((name, label) for name, label, difficult in objects if not difficult)


def _labels(path: Path, found: Annotation, classes: Sequence[str]) -> list[int]:
    for name in found.names:
        if name not in classes:
            raise ValueError(f"{path} has an object named {name!r}; the classes are {', '.join(classes)}")
    return [classes.index(name) for name in found.names]


def _size(root: ElementTree.Element, side: str) -> float | None:
    text = _text(root, f"size/{side}", "0") or "0"
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"its {side} is {text}")
    return value or None


def _difficult(one: ElementTree.Element) -> bool:
    text = _text(one, "difficult", "")
    if text not in _DIFFICULT:
        raise ValueError(f"difficult is {text!r}, not 0 or 1")
    return _DIFFICULT[text]


def _text(element: ElementTree.Element, path: str, default: str | None = None) -> str:
    """The text of the one element of this path."""
    found = element.findall(path)
    if not found and default is not None:
        return default
    if len(found) != 1:
        raise ValueError(f"<{element.tag}> has {len(found)} of <{path}>, not one")
    text = (found[0].text or "").strip()
    if not text and default is None:
        raise ValueError(f"<{path}> is empty")
    return text
