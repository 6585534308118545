"""Where labelled images lie on a disk: class folders, Parquet, tar shards, torchvision's CIFAR."""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

Place = tuple[Path, int, int, str]  # shard, offset, size, the member's name
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "valid": "validation",
}
_SPLITS |= {"test": "test"}
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "labels", "fine_label")
_LAYOUTS = (
    "class folders (train/CLASS/*.jpg, val/CLASS/*.jpg), Parquet files (train*.parquet, test*.parquet; columns img or "
    "image, and label), WebDataset shards (train*.tar, val*.tar; members NAME.jpg and NAME.cls), or torchvision's "
    "CIFAR (cifar-10-batches-py, cifar-100-python)"
)


@dataclass(frozen=True)
class Source:
    """The images of one split, not decoded yet.

    Attributes:
        labels: One an image.
        fetch: An image's number → the image, or its file's content.
        name: An image's number → what errors call it.
    """

    labels: Sequence[int]
    fetch: Callable[[int], Image.Image | bytes]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, number: int) -> Image.Image:
        """Decode an image.

        Raises:
            ValueError: It is broken; the error names it.
        """
        found = self.fetch(number)
        try:
            image = found if isinstance(found, Image.Image) else Image.open(io.BytesIO(found))
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises
            raise ValueError(f"{self.name(number)} is broken: {error}") from error
        return image


@dataclass(frozen=True)
class Sources:
    """The splits of a data set: `"train"`, `"validation"`, `"test"`, those that there are.

    Attributes:
        splits: By name.
        classes: The classes' names, where the data set has names.
    """

    splits: Mapping[str, Source]
    classes: tuple[str, ...] | None


def of_array(images: Any, labels: Sequence[int], name: str) -> Source:
    """Of images that are an array in memory, (N, H, W) or (N, H, W, 3), uint8."""
    return Source(labels, partial(_of_array, images), partial(_numbered, name))


def of_files(paths: Sequence[str], labels: Sequence[int]) -> Source:
    """Of image files."""
    return Source(labels, partial(_of_files, paths), partial(_named_file, paths))


def find_sources(folder: Path) -> Sources:
    """What lies in a folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Nothing in it is known, with what would be.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")
    for layout in (_cifar, _parquet, _shards, _folders):
        if sources := layout(folder):
            return sources
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise ValueError(f"no images were found in {folder}, which holds {inside}; accepted are {_LAYOUTS}")


def _by_split(folder: Path, ending: str) -> dict[str, list[Path]]:
    """The files of each split: train-0001.tar, or train/0001.tar."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob(f"*{ending}"), *folder.glob(f"*/*{ending}")]):
        word = (path.name if path.parent == folder else path.parent.name).lower()
        split = next((split for start, split in sorted(_SPLITS.items(), reverse=True) if word.startswith(start)), None)
        if split:
            found.setdefault(split, []).append(path)
    return found


def _cifar(folder: Path) -> Sources | None:
    from torchvision.datasets import CIFAR10, CIFAR100

    kinds = {"cifar-10-batches-py": CIFAR10, "cifar-100-python": CIFAR100}
    kind = next((kind for name, kind in kinds.items() if (folder / name).is_dir()), None)
    if kind is None:
        return None
    try:
        parts = {split: kind(str(folder), train=split == "train") for split in ("train", "test")}
    except RuntimeError as error:  # its checksums
        raise ValueError(f"{folder}: {error}") from error
    splits = {split: of_array(part.data, part.targets, f"{folder}: {split}") for split, part in parts.items()}
    return Sources(splits, tuple(parts["train"].classes))


def _parquet(folder: Path) -> Sources | None:
    files = _by_split(folder, ".parquet")
    return Sources(*_read_parquet(folder, files)) if files else None


def _read_parquet(folder: Path, files: Mapping[str, list[Path]]) -> tuple[dict[str, Source], tuple[str, ...] | None]:
    import datasets

    splits: dict[str, Source] = {}
    classes: tuple[str, ...] | None = None
    for split, paths in files.items():
        table = datasets.Dataset.from_parquet([str(path) for path in paths])
        assert isinstance(table, datasets.Dataset)
        columns = [
            next((name for name in accepted if name in table.column_names), None)
            for accepted in (_IMAGE_COLUMNS, _LABEL_COLUMNS)
        ]
        image_column, label_column = columns
        if image_column is None or label_column is None:
            raise ValueError(
                f"{paths[0]} has the columns {', '.join(table.column_names)}; it needs one of "
                f"{', '.join(_IMAGE_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)}"
            )
        if isinstance(table.features[image_column], datasets.Image):
            table = table.cast_column(image_column, datasets.Image(decode=False))
        feature = table.features[label_column]
        if isinstance(feature, datasets.ClassLabel):
            classes = tuple(feature.names)
        splits[split] = Source(
            list(table[label_column]),
            partial(_of_table, table.select_columns([image_column]), image_column),
            partial(_numbered, f"{folder}: {split}"),
        )
    return splits, classes


def _folders(folder: Path) -> Sources | None:
    from torchvision.datasets import ImageFolder

    splits: dict[str, Source] = {}
    classes: tuple[str, ...] | None = None
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = _SPLITS.get(path.name.lower())
        if split is None or not any(inner.is_dir() for inner in path.iterdir()):
            continue
        try:
            found = ImageFolder(str(path))
        except FileNotFoundError as error:  # a class without images
            raise ValueError(str(error)) from error
        if classes not in (None, tuple(found.classes)):
            raise ValueError(f"{path} has the classes {found.classes[:5]}…, another split {list(classes or ())[:5]}…")
        classes = tuple(found.classes)
        splits[split] = of_files([path for path, _ in found.samples], found.targets)
    return Sources(splits, classes) if splits else None


def _shards(folder: Path) -> Sources | None:
    files = _by_split(folder, ".tar")
    splits = {split: _read_shards(paths) for split, paths in files.items()}
    return Sources(splits, None) if splits else None


def _read_shards(paths: Sequence[Path]) -> Source:
    """Tar shards by their members' places, so that any process can read any image: no repeats, no losses, no state."""
    labels: list[int] = []
    places: list[Place] = []
    for path in paths:
        images: dict[str, tuple[int, int, str]] = {}
        classes: dict[str, int] = {}
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    key, _, ending = member.name.partition(".")
                    if ending == "cls":
                        file = shard.extractfile(member)
                        assert file is not None
                        classes[key] = int(file.read())
                    elif ending.lower() in ("jpg", "jpeg", "png", "webp"):
                        images[key] = member.offset_data, member.size, member.name
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{path} is no shard of images (NAME.jpg) and labels (NAME.cls): {error}") from error
        if differing := sorted(set(images) ^ set(classes)):
            raise ValueError(f"{path}: {differing[0]} has an image or a label (.cls), but not both")
        labels += [classes[key] for key in images]
        places += [(path, *place) for place in images.values()]

    return Source(labels, partial(_of_shards, places), partial(_named_member, places))


# Functions of their own, since lambdas do not travel to the processes that decode.
def _of_array(images: Any, number: int) -> Image.Image:
    return Image.fromarray(images[number])


def _of_table(table: Any, column: str, number: int) -> bytes:
    return table[number][column]["bytes"]


def _of_files(paths: Sequence[str], number: int) -> bytes:
    return Path(paths[number]).read_bytes()


def _of_shards(places: Sequence[Place], number: int) -> bytes:
    path, offset, size, _ = places[number]
    with path.open("rb") as shard:
        shard.seek(offset)
        return shard.read(size)


def _numbered(split: str, number: int) -> str:
    return f"{split} image {number}"


def _named_file(paths: Sequence[str], number: int) -> str:
    return paths[number]


def _named_member(places: Sequence[Place], number: int) -> str:
    return f"{places[number][0]}: {places[number][3]}"
