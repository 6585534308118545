"""The layouts of photographs with masks or boxes: CamVid, Cityscapes and Pascal VOC."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torchvision.datasets import Cityscapes

from cnnmod.training.decode import is_image_file
from cnnmod.training.masks import IGNORED, count_pixels, read_mask
from cnnmod.training.scenes import Scenes
from cnnmod.training.splits import SPLITS, check_folder, no_layout, visible
from cnnmod.training.voc import count_boxes, read_annotation, read_boxes

SceneData = tuple[dict[str, Scenes], tuple[str, ...]]  # the splits by name, and the names of the classes

_MASKS = (
    "masks beside the images (train/NAME.jpg and trainannot/NAME.png, val/ and valannot/) or Cityscapes "
    "(leftImg8bit/train/… and gtFine/train/…)"
)
_BOXES = (
    "Pascal VOC's folders (Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/train.txt and val.txt), alone or "
    "as VOCdevkit/VOC2007 and VOCdevkit/VOC2012"
)


def find_masks(folder: Path, classes: Sequence[str], ignore: int) -> SceneData:
    """Find photographs with masks in a folder. Return the splits and the names of the classes.

    Args:
        folder: The folder of one data set.
        classes: The names of the mask values 0, 1, …, for data sets that do not name them.
        ignore: The mask value of ignored pixels, for the same data sets.

    Raises:
        FileNotFoundError: If the folder does not exist, or an image has no mask.
        ValueError: If the folder has no supported layout (the error lists them), the classes have no names, or two
            folders belong to the same split.
    """
    check_folder(folder)
    return _cityscapes(folder) or _masks(folder, classes, ignore) or no_layout("data for segmentation", folder, _MASKS)


def find_boxes(folder: Path) -> SceneData:
    """Find photographs with boxes in a folder. Return the splits and the names of the classes, background first.

    Raises:
        FileNotFoundError: If the folder does not exist, or an image has no annotation.
        ValueError: If the folder has no supported layout (the error lists them), or no annotation has an object.
    """
    check_folder(folder)
    return _voc(folder) or no_layout("data for detection", folder, _BOXES)


def _masks(folder: Path, names: Sequence[str], ignore: int) -> SceneData | None:
    classes = dict(enumerate(range(len(names)))) | {ignore: IGNORED}
    read, count = partial(read_mask, classes=classes), partial(count_pixels, classes=classes)
    split_folders: dict[str, Path] = {}
    for path in visible(folder):
        if not path.is_dir() or (split := SPLITS.get(path.name.lower())) is None:
            continue
        other = split_folders.setdefault(split, path)
        if other != path and any((folder / f"{name}annot").is_dir() for name in (other.name, path.name)):
            raise ValueError(f"{other} and {path} are both the {split} split; keep one of them")
    splits: dict[str, Scenes] = {}
    for split, split_folder in split_folders.items():
        annotations = folder / f"{split_folder.name}annot"
        if annotations.is_dir():
            images = [path for path in visible(split_folder) if is_image_file(path)]
            masks = [annotations / f"{image.stem}.png" for image in images]
            splits[split] = Scenes(images, _existing(images, masks), read, count)
    if splits and not names:
        raise ValueError(f'the classes in {folder} have no names; set them, such as --set \'classes=["road", "sky"]\'')
    return (splits, tuple(names)) if splits else None


def _cityscapes(folder: Path) -> SceneData | None:
    if not (folder / "leftImg8bit").is_dir():
        return None
    evaluated = [label for label in Cityscapes.classes if not label.ignore_in_eval]
    classes = {label.id % 256: IGNORED if label.ignore_in_eval else label.train_id for label in Cityscapes.classes}
    read, count = partial(read_mask, classes=classes), partial(count_pixels, classes=classes)
    splits: dict[str, Scenes] = {}
    for split, name in {"train": "train", "validation": "val"}.items():
        try:
            dataset = Cityscapes(str(folder), split=name, mode="fine", target_type="semantic")
        except RuntimeError as error:
            raise ValueError(f"{folder} is not a complete copy of Cityscapes: {error}") from error
        pairs = [
            (Path(image), Path(targets[0])) for image, targets in zip(dataset.images, dataset.targets, strict=True)
        ]
        pairs = [
            pair for pair in pairs if not any(part.startswith(".") for part in pair[0].parts[-2:])
        ]  # skips hidden files
        images = [image for image, _ in pairs]
        splits[split] = Scenes(images, _existing(images, [mask for _, mask in pairs]), read, count)
    return splits, tuple(label.name for label in evaluated)


def _voc(folder: Path) -> SceneData | None:
    """Find one folder with the layout of VOC, or the folders of several years. Only val of the first year is used."""
    years = sorted((folder / "VOCdevkit").glob("VOC*")) if (folder / "VOCdevkit").is_dir() else [folder]
    years = [year for year in years if (year / "Annotations").is_dir() and (year / "ImageSets" / "Main").is_dir()]
    if not years:
        return None
    classes = ("background", *_names(folder, years))
    read, count = partial(read_boxes, classes=classes), partial(count_boxes, classes=classes)
    splits: dict[str, Scenes] = {}
    for split, name, split_years in (("train", "train", years), ("validation", "val", years[:1])):
        images: list[Path] = []
        for year in split_years:
            listing = year / "ImageSets" / "Main" / f"{name}.txt"
            if not listing.is_file():
                raise FileNotFoundError(f"{listing}, the list of {split} images, does not exist")
            lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
            stems = [line.split()[0] for line in lines if line.strip()]
            images += [year / "JPEGImages" / f"{stem}.jpg" for stem in stems]
        annotations = [image.parent.parent / "Annotations" / f"{image.stem}.xml" for image in images]
        splits[split] = Scenes(_existing(annotations, images), _existing(images, annotations), read, count)
    return splits, classes


def _names(folder: Path, years: Sequence[Path]) -> list[str]:
    """Return the sorted names of all objects."""
    names: dict[str, Path] = {}
    broken = ""
    for path in sorted(path for year in years for path in (year / "Annotations").glob("[!.]*.xml")):
        try:
            names |= dict.fromkeys(read_annotation(path).names, path)
        except ValueError as error:  # raised or skipped when the image is used
            broken = broken or f"; {error}"
    for name, path in names.items():
        if name.casefold() == "background":
            raise ValueError(
                f"{path} has an object named {name!r}, which is reserved for the background class; rename it"
            )
    if not names:
        raise ValueError(f"no annotation in {folder} has an object{broken}")
    return sorted(names)


def _existing(partners: Sequence[Path], paths: Sequence[Path]) -> Sequence[Path]:
    """Check that all paths exist. Errors name the image or label that a path belongs to."""
    for partner, path in zip(partners, paths, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"{path}, which belongs to {partner.name}, does not exist")
    return paths
