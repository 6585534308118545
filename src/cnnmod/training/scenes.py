"""Where photographs with masks or boxes lie on a disk: CamVid's folders, Cityscapes', Pascal VOC's."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import Cityscapes

from cnnmod.training.recipe import IGNORED, Recipe, Task
from cnnmod.training.voc import count_boxes, read_annotation, read_boxes

_IMAGES = (".jpg", ".jpeg", ".png")
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
        count: The file of a mask or boxes → how many pixels of each value and its class, `IGNORED` among them, or
            boxes of each name and its class, without the difficult ones.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    read: Callable[[Path, tuple[int, int]], Any]
    count: Callable[[Path], Counter[tuple[int | str, int]]]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, numbers: Sequence[int]) -> "Scenes":
        """Those of these numbers alone."""
        images, labels = ([files[number] for number in numbers] for files in (self.images, self.labels))
        return Scenes(images, labels, self.read, self.count)

    def open(self, number: int) -> tuple[Image.Image, Any]:
        """An image in colour, and its mask (H, W) or its boxes.

        Raises:
            ValueError: One of the two is broken; the error names the file.
        """
        image = _decoded(self.images[number], "RGB")
        return image, self.read(self.labels[number], (image.height, image.width))


def unlabelled(files: Sequence[Path], task: Task) -> Scenes:
    """Photographs of which nothing is known: every pixel is of the first class, or there is no box."""
    return Scenes(files, files, _no_mask if task == "segmentation" else _no_boxes, _no_count)


def find_scenes(folder: Path, recipe: Recipe) -> tuple[dict[str, Scenes], tuple[str, ...]]:
    """The splits that lie in a folder, `"train"`, `"validation"` and maybe `"test"`, and the classes' names.

    Of detection the background is the first class.

    Raises:
        FileNotFoundError: There is no such folder, or an image has no mask or boxes.
        ValueError: Nothing in it is known, with what would be; or nothing says what the classes are.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")
    layouts = (_cityscapes, _masks) if recipe.task == "segmentation" else (_voc,)
    for layout in layouts:
        if found := layout(folder, recipe):
            return found
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    accepted = _MASKS if recipe.task == "segmentation" else _BOXES
    raise ValueError(f"nothing for {recipe.task} was found in {folder}, which holds {inside}; accepted are {accepted}")


def _masks(folder: Path, recipe: Recipe) -> tuple[dict[str, Scenes], tuple[str, ...]] | None:
    classes = dict(enumerate(range(len(recipe.classes)))) | {recipe.ignore: IGNORED}
    read, count = partial(_read_mask, classes=classes), partial(_count_pixels, classes=classes)
    splits: dict[str, Scenes] = {}
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        if not ((folder / name).is_dir() and (folder / f"{name}annot").is_dir()):
            continue
        images = sorted(path for path in (folder / name).glob("[!.]*") if path.suffix.lower() in _IMAGES)
        masks = [folder / f"{name}annot" / f"{image.stem}.png" for image in images]
        splits[split] = Scenes(images, _there(images, masks), read, count)
    if splits and not recipe.classes:
        raise ValueError(f'nothing says what the classes in {folder} are; name them: --set \'classes=["road", "sky"]\'')
    return (splits, recipe.classes) if splits else None


def _cityscapes(folder: Path, _: Recipe) -> tuple[dict[str, Scenes], tuple[str, ...]] | None:
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
        images = [Path(path) for path in found.images]
        splits[split] = Scenes(images, _there(images, [Path(targets[0]) for targets in found.targets]), read, count)
    return splits, tuple(kind.name for kind in counted)


def _voc(folder: Path, _: Recipe) -> tuple[dict[str, Scenes], tuple[str, ...]] | None:
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


def _decoded(path: Path, mode: str | None) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises
        raise ValueError(f"{path} is broken: {error}") from error
    return image if mode is None or image.mode == mode else image.convert(mode)


def _read_mask(path: Path, size: tuple[int, int], classes: Mapping[int, int]) -> Tensor:
    """A mask (H, W) of one byte a pixel, as classes 0, 1, … and `IGNORED`."""
    image = _decoded(path, None)
    _check_mode(path, image)
    if (image.height, image.width) != size:
        raise ValueError(f"{path} has {image.height} × {image.width} pixels, its image {size[0]} × {size[1]}")
    values_HW = torch.from_numpy(numpy.array(image))
    table = torch.full((256,), -1)
    for value, label in classes.items():
        table[value] = label
    mask_HW = table[values_HW.long()]
    if (mask_HW < 0).any():
        raise _unknown(path, int(values_HW[mask_HW < 0][0]), classes)
    return mask_HW.to(torch.uint8)


def _count_pixels(path: Path, classes: Mapping[int, int]) -> Counter[tuple[int | str, int]]:
    image = _decoded(path, None)
    _check_mode(path, image)
    found = {value: count for value, count in enumerate(image.histogram()) if count}
    for value in found:
        if value not in classes:
            raise _unknown(path, value, classes)
    return Counter({(value, classes[value]): count for value, count in found.items()})


def _check_mode(path: Path, image: Image.Image) -> None:
    if image.mode not in ("L", "P"):
        raise ValueError(f"{path} is no mask of one byte a pixel, but an image of mode {image.mode}")


def _unknown(path: Path, value: int, classes: Mapping[int, int]) -> ValueError:
    return ValueError(f"{path} has pixels of the class {value}; the classes are {', '.join(map(str, classes))}")


def _no_mask(_: Path, size: tuple[int, int]) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


def _no_boxes(_: Path, __: tuple[int, int]) -> dict[str, Tensor]:
    none = torch.zeros(0, dtype=torch.long)
    return {"boxes": torch.zeros(0, 4), "labels": none, "difficult": none}


def _no_count(_: Path) -> Counter[tuple[int | str, int]]:
    return Counter()
