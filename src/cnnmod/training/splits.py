"""Which files and folders are of which split, by their names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

_Found = TypeVar("_Found")

SPLITS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, but hidden files and folders."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def folders_by_split(folder: Path) -> dict[str, Path]:
    """The folders of the splits, train and val, that hold folders themselves.

    Raises:
        ValueError: Two folders are of one split.
    """
    found: dict[str, Path] = {}
    for path in visible(folder):
        split = SPLITS.get(path.name.lower())
        if split is None or not path.is_dir() or not any(inner.is_dir() for inner in visible(path)):
            continue
        if split in found:
            raise ValueError(f"{found[split]} and {path} are both of the {split} split; leave one of them")
        found[split] = path
    return _in_order(found)


def files_by_split(folder: Path, endings: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each split: train-0001.tar or train/0001.tar, in the folder itself or in one below it.

    Raises:
        ValueError: The files of a split are called in two ways, or files lie in two folders.
    """
    found: dict[str, list[Path]] = {}
    first: dict[str, tuple[Path, str, Path]] = {}  # how the first file of a split is called
    for path in _candidates(folder, endings):
        base, word = _split_word(path, folder)
        if word is None:
            continue
        split = SPLITS[word]
        one, *how = first.setdefault(split, (path, word, path.parent))
        if how != [word, path.parent]:
            raise ValueError(f"{one} and {path} are both of the {split} split; leave those that are called in one way")
        other = next(iter(found.values()), [path])[0]
        if base != _split_word(other, folder)[0]:
            raise ValueError(f"{other} and {path} seem to be of two data sets; give the folder of one of them")
        found.setdefault(split, []).append(path)
    return _in_order(found)


def _in_order(found: Mapping[str, _Found]) -> dict[str, _Found]:
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _candidates(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files in a folder, in those below it, and in train, val and test below these."""
    inner = [path for path in visible(folder) if path.is_dir() and os.access(path, os.R_OK)]  # not lost+found
    of_splits = [path / word for path in inner for word in SPLITS if (path / word).is_dir()]
    files = [path for place in (folder, *inner, *of_splits) for path in visible(place)]
    return [path for path in files if path.name.lower().endswith(tuple(endings)) and path.is_file()]


def _split_word(path: Path, folder: Path) -> tuple[Path, str | None]:
    """The word that says which split a file is of, and the folder of the data set's files."""
    parent = path.parent.name.lower() if path.parent != folder else ""
    if parent in SPLITS:
        return path.parent.parent, parent
    if word := _starting_word(path.name.lower()):
        return path.parent, word
    return path.parent.parent, _starting_word(parent)


def _starting_word(name: str) -> str | None:
    return next((word for word in SPLITS if name.startswith(word)), None)
