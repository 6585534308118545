"""Where photographs with masks or boxes lie on a disk: CamVid's folders, Cityscapes', Pascal VOC's."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import Cityscapes

from cnnmod.training.decode import ORIENTATION, decode_file, decode_mask, is_image_file
from cnnmod.training.images import Counts
from cnnmod.training.splits import SPLITS, visible
from cnnmod.training.voc import count_boxes, read_annotation, read_boxes

IGNORED = 255  # a pixel's class that counts nowhere
Found = tuple[dict[str, "Scenes"], tuple[str, ...]]  # the splits by name, and the classes' names

_QUIET_S = 2  # seconds before progress is shown
_MASKS = (
    "masks beside the images (train/NAME.jpg and trainannot/NAME.png, val/ and valannot/) or Cityscapes "
    "(leftImg8bit/train/… and gtFine/train/…)"
)
_BOXES = (
    "Pascal VOC's folders (Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/train.txt and val.txt), alone or "
    "as VOCdevkit/VOC2007 and VOCdevkit/VOC2012"
)


@dataclass(frozen=True)
class Scenes:
    """The photographs of one split, not decoded yet.

    Attributes:
        images: Their files.
        labels: The files of their masks or boxes.
        read: The file of a mask or boxes, and the image's height and width → what is in it; errors name the file.
        count_in: The file of a mask or boxes → how many pixels of each value and its class, `IGNORED` among them, or
            boxes of each name and its class, without the difficult ones.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    read: Callable[[Path, tuple[int, int]], Any]
    count_in: Callable[[Path], Counts]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, numbers: Sequence[int]) -> "Scenes":
        """Those of these numbers alone."""
        images, labels = ([files[number] for number in numbers] for files in (self.images, self.labels))
        return Scenes(images, labels, self.read, self.count_in)

    def name(self, number: int) -> str:
        """The file of an image."""
        return str(self.images[number])

    def open(self, number: int, channels: int = 3) -> tuple[Image.Image, Any]:
        """An image, and its mask (H, W) or its boxes.

        Raises:
            ValueError: One of the two is broken; the error names the file.
        """
        path, label = self.images[number], self.labels[number]
        image = decode_file(path, channels)
        if ORIENTATION in image.info and label.suffix == ".xml" and not _states_size(label):
            raise ValueError(
                f"{path} has the EXIF orientation {image.info[ORIENTATION]}, and {label} does not state the size of "
                "the image that its boxes are of"
            )
        return image, self.read(label, (image.height, image.width))

    def count(self, numbers: Sequence[int], skip_broken: bool, progress: Callable[[int, int], None]) -> Counts:
        """What `count_in` finds in the labels of these images; `progress` is called if it takes seconds.

        Raises:
            ValueError: A label is broken, and `skip_broken` is not given.
        """

        def count(number: int) -> Counts:
            try:
                return self.count_in(self.labels[number])
            except ValueError:
                if not skip_broken:
                    raise
                return Counter()

        found: Counts = Counter()
        started, shown = time.monotonic(), False
        pool = ThreadPoolExecutor()
        try:
            for done, counts in enumerate(pool.map(count, numbers), 1):
                found.update(counts)
                shown = shown or time.monotonic() - started > _QUIET_S
                if shown:
                    progress(done, len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)
        return found


def find_masks(folder: Path, classes: Sequence[str], ignore: int) -> Found:
    """The splits of photographs with masks that lie in a folder, and the classes' names.

    Args:
        folder: Of one data set.
        classes: The names of the pixel values 0, 1, …, where the data does not name them.
        ignore: The pixel value that counts nowhere, then.

    Raises:
        FileNotFoundError: There is no such folder, or an image has no mask.
        ValueError: Nothing in it is known, with what would be; nothing says what the classes are; or two folders are
            of one split.
    """
    _check_folder(folder)
    found = _cityscapes(folder) or _masks(folder, classes, ignore)
    return found or _nothing("segmentation", folder, _MASKS)


def find_boxes(folder: Path) -> Found:
    """The splits of photographs with boxes that lie in a folder, and the classes' names; the background is the first.

    Raises:
        FileNotFoundError: There is no such folder, or an image has no annotation.
        ValueError: Nothing in it is known, with what would be; or no annotation has an object.
    """
    _check_folder(folder)
    return _voc(folder) or _nothing("detection", folder, _BOXES)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")


def _nothing(task: str, folder: Path, accepted: str) -> NoReturn:
    inside = ", ".join(path.name for path in visible(folder)[:8]) or "nothing"
    raise ValueError(f"nothing for {task} was found in {folder}, which holds {inside}; accepted are {accepted}")


def _masks(folder: Path, names: Sequence[str], ignore: int) -> Found | None:
    classes = dict(enumerate(range(len(names)))) | {ignore: IGNORED}
    read, count = partial(_read_mask, classes=classes), partial(_count_pixels, classes=classes)
    places = [place for place in visible(folder) if place.is_dir() and place.name.lower() in SPLITS]
    found: dict[str, Path] = {}
    for place in places:
        other = found.setdefault(SPLITS[place.name.lower()], place)
        if other != place and any((folder / f"{one.name}annot").is_dir() for one in (other, place)):
            raise ValueError(
                f"{other} and {place} are both of the {SPLITS[place.name.lower()]} split; leave one of them"
            )
    splits: dict[str, Scenes] = {}
    for split, place in found.items():
        annotations = folder / f"{place.name}annot"
        if annotations.is_dir():
            images = [path for path in visible(place) if is_image_file(path)]
            masks = [annotations / f"{image.stem}.png" for image in images]
            splits[split] = Scenes(images, _there(images, masks), read, count)
    if splits and not names:
        raise ValueError(f'nothing says what the classes in {folder} are; name them: --set \'classes=["road", "sky"]\'')
    return (splits, tuple(names)) if splits else None


def _cityscapes(folder: Path) -> Found | None:
    if not (folder / "leftImg8bit").is_dir():
        return None
    counted = [kind for kind in Cityscapes.classes if not kind.ignore_in_eval]
    classes = {kind.id % 256: IGNORED if kind.ignore_in_eval else kind.train_id for kind in Cityscapes.classes}
    read, count = partial(_read_mask, classes=classes), partial(_count_pixels, classes=classes)
    splits: dict[str, Scenes] = {}
    for split, name in {"train": "train", "validation": "val"}.items():
        try:
            found = Cityscapes(str(folder), split=name, mode="fine", target_type="semantic")
        except RuntimeError as error:
            raise ValueError(f"{folder} is no whole copy of Cityscapes: {error}") from error
        pairs = [(Path(image), Path(targets[0])) for image, targets in zip(found.images, found.targets, strict=True)]
        pairs = [pair for pair in pairs if not any(part.startswith(".") for part in pair[0].parts[-2:])]  # hidden
        images = [image for image, _ in pairs]
        splits[split] = Scenes(images, _there(images, [mask for _, mask in pairs]), read, count)
    return splits, tuple(kind.name for kind in counted)


def _voc(folder: Path) -> Found | None:
    """One folder of VOC's layout; or those of several years, of which the first one's val is validated on."""
    years = sorted((folder / "VOCdevkit").glob("VOC*")) if (folder / "VOCdevkit").is_dir() else [folder]
    years = [year for year in years if (year / "Annotations").is_dir() and (year / "ImageSets" / "Main").is_dir()]
    if not years:
        return None
    classes = ("background", *_names(folder, years))
    read, count = partial(read_boxes, classes=classes), partial(count_boxes, classes=classes)
    splits: dict[str, Scenes] = {}
    for split, name, of in (("train", "train", years), ("validation", "val", years[:1])):
        images: list[Path] = []
        for year in of:
            listed = year / "ImageSets" / "Main" / f"{name}.txt"
            if not listed.is_file():
                raise FileNotFoundError(f"{listed}, which lists the images to {split}, does not exist")
            lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
            listing = [line.split()[0] for line in lines if line.strip()]
            images += [year / "JPEGImages" / f"{image}.jpg" for image in listing]
        annotations = [image.parent.parent / "Annotations" / f"{image.stem}.xml" for image in images]
        splits[split] = Scenes(_there(annotations, images), _there(images, annotations), read, count)
    return splits, classes


def _names(folder: Path, years: Sequence[Path]) -> list[str]:
    """The names of all objects."""
    names: dict[str, Path] = {}
    broken = ""
    for path in sorted(path for year in years for path in (year / "Annotations").glob("[!.]*.xml")):
        try:
            names |= dict.fromkeys(read_annotation(path).names, path)
        except ValueError as error:  # it is reported, or skipped, where it is used
            broken = broken or f"; {error}"
    for name, path in names.items():
        if name.casefold() == "background":
            raise ValueError(f"{path} has an object named {name!r}, the name of what is in no box; rename it")
    if not names:
        raise ValueError(f"no annotation in {folder} has an object{broken}")
    return sorted(names)


def _there(of: Sequence[Path], paths: Sequence[Path]) -> Sequence[Path]:
    for one, path in zip(of, paths, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"{path}, which belongs to {one.name}, does not exist")
    return paths


def _read_mask(path: Path, size: tuple[int, int], classes: Mapping[int, int]) -> Tensor:
    """A mask (H, W) of one byte a pixel, as classes 0, 1, … and `IGNORED`."""
    values_HW = torch.from_numpy(decode_mask(path))
    if values_HW.shape != size:
        height, width = values_HW.shape
        raise ValueError(f"{path} has {height} × {width} pixels, its image {size[0]} × {size[1]} as it is shown")
    table = torch.full((256,), -1)
    for value, label in classes.items():
        table[value] = label
    mask_HW = table[values_HW.long()]
    if (mask_HW < 0).any():
        raise _unknown(path, int(values_HW[mask_HW < 0][0]), classes)
    return mask_HW.to(torch.uint8)


def _count_pixels(path: Path, classes: Mapping[int, int]) -> Counts:
    found = {value: int(count) for value, count in enumerate(numpy.bincount(decode_mask(path).ravel())) if count}
    for value in found:
        if value not in classes:
            raise _unknown(path, value, classes)
    return Counter({(value, classes[value]): count for value, count in found.items()})


def _unknown(path: Path, value: int, classes: Mapping[int, int]) -> ValueError:
    return ValueError(f"{path} has pixels of the class {value}; the classes are {', '.join(map(str, classes))}")


def _states_size(path: Path) -> bool:
    try:
        return None not in read_annotation(path).size
    except ValueError:  # which is reported where its objects are read
        return True
