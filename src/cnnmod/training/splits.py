"""Find the files and folders of each split by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

_Value = TypeVar("_Value")

SPLITS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def check_folder(folder: Path) -> None:
    """Raise `FileNotFoundError` if the folder of a data set does not exist."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the data folder {folder} does not exist")


def no_layout(what: str, folder: Path, accepted: str) -> NoReturn:
    """Raise the `ValueError` for a folder whose layout is not supported."""
    inside = ", ".join(path.name for path in visible(folder)[:8]) or "nothing"
    raise ValueError(f"found no {what} in {folder}, which contains {inside}; the supported layouts are {accepted}")


def folders_by_split(folder: Path) -> dict[str, Path]:
    """Return the folder of each split, such as train and val, if it contains folders.

    Raises:
        ValueError: If two folders belong to the same split.
    """
    folders: dict[str, Path] = {}
    for path in visible(folder):
        split = SPLITS.get(path.name.lower())
        if split is None or not path.is_dir() or not any(inner.is_dir() for inner in visible(path)):
            continue
        if split in folders:
            raise ValueError(f"{folders[split]} and {path} are both the {split} split; keep one of them")
        folders[split] = path
    return _in_order(folders)


def files_by_split(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each split: train-0001.tar or train/0001.tar, in the folder or one level below.

    Raises:
        ValueError: If the files of a split are named in two ways, or there are files in two folders.
    """
    files: dict[str, list[Path]] = {}
    first: dict[str, tuple[Path, str, Path]] = {}  # split → its first file, the word in its name, and its folder
    for path in _candidates(folder, suffixes):
        base, word = _split_word(path, folder)
        if word is None:
            continue
        split = SPLITS[word]
        first_file, *naming = first.setdefault(split, (path, word, path.parent))
        if naming != [word, path.parent]:
            raise ValueError(f"{first_file} and {path} are both of the {split} split; keep files with one naming only")
        other = next(iter(files.values()), [path])[0]
        if base != _split_word(other, folder)[0]:
            raise ValueError(f"{other} and {path} seem to belong to two data sets; give the folder of one of them")
        files.setdefault(split, []).append(path)
    return _in_order(files)


def _in_order(values: Mapping[str, _Value]) -> dict[str, _Value]:
    return {split: values[split] for split in ("train", "validation", "test") if split in values}


def _candidates(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in the folder, in its subfolders, and in their subfolders train, val and test."""
    # Skips folders such as lost+found.
    inner = [path for path in visible(folder) if path.is_dir() and os.access(path, os.R_OK)]
    split_folders = [path / word for path in inner for word in SPLITS if (path / word).is_dir()]
    paths = [path for parent in (folder, *inner, *split_folders) for path in visible(parent)]
    return [path for path in paths if path.name.lower().endswith(tuple(suffixes)) and path.is_file()]


def _split_word(path: Path, folder: Path) -> tuple[Path, str | None]:
    """Return the folder of the data set of a file, and the word that names its split."""
    parent = path.parent.name.lower() if path.parent != folder else ""
    if parent in SPLITS:
        return path.parent.parent, parent
    if word := _starting_word(path.name.lower()):
        return path.parent, word
    return path.parent.parent, _starting_word(parent)


def _starting_word(name: str) -> str | None:
    return next((word for word in SPLITS if name.startswith(word)), None)
