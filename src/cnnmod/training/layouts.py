"""What lies in a folder of labelled images: class folders, Parquet, tar shards, or torchvision's CIFAR."""

from functools import partial
from pathlib import Path

from cnnmod.training.class_folders import find_class_folders
from cnnmod.training.images import Progress
from cnnmod.training.parquet import find_parquet
from cnnmod.training.shards import find_shards
from cnnmod.training.sources import Sources, of_array
from cnnmod.training.splits import files_by_split, folders_by_split, visible

_CIFAR = ("cifar-10-batches-py", "cifar-100-python")
_LAYOUTS = (
    "class folders (train/CLASS/*.jpg, val/CLASS/*.jpg), Parquet files (train*.parquet, test*.parquet, also in data/; "
    "columns img or image, and label), WebDataset shards (train*.tar, val*.tar; members NAME.jpg and NAME.cls), or "
    "torchvision's CIFAR (cifar-10-batches-py, cifar-100-python)"
)


def find_sources(folder: Path, progress: Progress = lambda what, done, total: None) -> Sources:
    """What lies in a folder.

    Args:
        folder: Of one data set.
        progress: Called while Parquet files are read, with what is done, how much of it, and how much there is.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Nothing in it is known, with what would be, or more than one data set; or what is in it is wrong.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")
    there = [name for name in _CIFAR if (folder / name).is_dir()]
    there += ["Parquet files"] if files_by_split(folder, [".parquet"]) else []
    there += ["tar shards"] if files_by_split(folder, [".tar"]) else []
    there += ["class folders"] if folders_by_split(folder) else []
    if len(there) > 1:
        raise ValueError(f"{folder} holds {' and '.join(there)}; give a folder with one of them")
    for layout in (_find_cifar, partial(find_parquet, progress=progress), find_shards, find_class_folders):
        if sources := layout(folder):
            return sources
    inside = ", ".join(path.name for path in visible(folder)[:8]) or "nothing"
    raise ValueError(f"no images were found in {folder}, which holds {inside}; accepted are {_LAYOUTS}")


def _find_cifar(folder: Path) -> Sources | None:
    from torchvision.datasets import CIFAR10, CIFAR100

    name = next((name for name in _CIFAR if (folder / name).is_dir()), None)
    if name is None:
        return None
    kind = CIFAR10 if name == _CIFAR[0] else CIFAR100
    try:
        parts = {split: kind(str(folder), train=split == "train") for split in ("train", "test")}
    except RuntimeError as error:  # its checksums
        raise ValueError(f"{folder}: {error}") from error
    splits = {split: of_array(part.data, part.targets, f"{folder}: {split}") for split, part in parts.items()}
    return Sources(splits, tuple(parts["train"].classes))
