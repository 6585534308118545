"""The layouts of labeled images: class folders, Parquet, tar shards, and torchvision's CIFAR."""

from functools import partial
from pathlib import Path

from cnnmod.records.progress import Progress
from cnnmod.training.class_folders import find_class_folders
from cnnmod.training.parquet import find_parquet
from cnnmod.training.shards import find_shards
from cnnmod.training.sources import Sources, of_array
from cnnmod.training.splits import check_folder, files_by_split, folders_by_split, no_layout

_CIFAR = ("cifar-10-batches-py", "cifar-100-python")
_LAYOUTS = (
    "class folders (train/CLASS/*.jpg, val/CLASS/*.jpg), Parquet files (train*.parquet, test*.parquet, also in data/; "
    "columns img or image, and label), WebDataset shards (train*.tar, val*.tar; members NAME.jpg and NAME.cls), or "
    "torchvision's CIFAR (cifar-10-batches-py, cifar-100-python)"
)


def find_sources(folder: Path, progress: Progress = lambda description, done, total: None) -> Sources:
    """Find the images in the folder of a data set.

    Args:
        folder: The folder of one data set.
        progress: A callback (description, done, total) while Parquet files are read.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the folder has no supported layout (the error lists them), has more than one, or its content is
            invalid.
    """
    check_folder(folder)
    layouts = [name for name in _CIFAR if (folder / name).is_dir()]
    layouts += ["Parquet files"] if files_by_split(folder, [".parquet"]) else []
    layouts += ["tar shards"] if files_by_split(folder, [".tar"]) else []
    layouts += ["class folders"] if folders_by_split(folder) else []
    if len(layouts) > 1:
        raise ValueError(f"{folder} contains {' and '.join(layouts)}; give a folder with only one of them")
    for find in (_find_cifar, partial(find_parquet, progress=progress), find_shards, find_class_folders):
        if sources := find(folder):
            return sources
    return no_layout("images", folder, _LAYOUTS)


def _find_cifar(folder: Path) -> Sources | None:
    from torchvision.datasets import CIFAR10, CIFAR100

    name = next((name for name in _CIFAR if (folder / name).is_dir()), None)
    if name is None:
        return None
    dataset_class = CIFAR10 if name == _CIFAR[0] else CIFAR100
    try:
        datasets = {split: dataset_class(str(folder), train=split == "train") for split in ("train", "test")}
    except RuntimeError as error:  # a wrong checksum
        raise ValueError(f"{folder}: {error}") from error
    splits = {split: of_array(part.data, part.targets, f"{folder}: {split}") for split, part in datasets.items()}
    return Sources(splits, tuple(datasets["train"].classes))
