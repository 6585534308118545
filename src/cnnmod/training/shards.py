"""WebDataset's tar shards, read by their members' places: no repeats, no losses, no state in any process."""

import posixpath
import re
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cnnmod.training.decode import IMAGE_SUFFIXES, why_unreadable
from cnnmod.training.sources import Source, Sources
from cnnmod.training.splits import files_by_split

_Place = tuple[Path, int, int, str]  # shard, offset, size, the member's name
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # of gzip, bzip2, xz and zstd
_CHUNK, _LONGEST = 1 << 20, 40  # bytes at a time, and of a label


def find_shards(folder: Path) -> Sources | None:
    """The tar shards in a folder, if there are any.

    Keys are WebDataset's: a member's path up to the first dot of its base name. Each key has one image and one label.
    Hidden members are ignored, and so are those of other endings.

    Raises:
        ValueError: A shard is broken or compressed, or a key has not exactly one image and one label; the error names
            the shard and the key.
    """
    for files in files_by_split(folder, _COMPRESSED).values():
        raise ValueError(f"{files[0]} is compressed; shards must be plain tar files, as images are read by their place")
    splits = {split: _source(paths) for split, paths in files_by_split(folder, [".tar"]).items()}
    return Sources(splits, None) if splits else None


def _source(paths: Sequence[Path]) -> Source:
    labels: list[int] = []
    places: list[_Place] = []
    for path in paths:
        images, classes = _index(path)
        labels += [classes[key] for key in images]
        places += images.values()
    return Source(labels, partial(_fetch, places), partial(_name, places))


def _index(path: Path) -> tuple[dict[str, _Place], dict[str, int]]:
    """Where the image of each key is, and its label."""
    images: dict[str, _Place] = {}
    labels: dict[str, _Place] = {}
    other: dict[str, str] = {}
    for member in _members(path):
        key, ending = _key_and_ending(member.name)
        if not key or member.isdir():
            continue
        if f".{ending}" not in IMAGE_SUFFIXES and ending != "cls":
            other.setdefault(key, member.name)
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(f"{path}: {member.name} is a link or a sparse file; shards must hold plain files")
        place = (path, member.offset_data, member.size, member.name)
        _add(labels if ending == "cls" else images, key, place)
    for key in sorted(images.keys() ^ labels.keys()):
        there, missing = ("image", "label (.cls)") if key in images else ("label (.cls)", "image")
        besides = f", but {other[key]}: keys end at the first dot of a name" if key in other else ""
        raise ValueError(f"{path}: {key} has one {there} and no {missing}{besides}")
    for key, name in other.items():
        if key not in images and (not images or name.lower().endswith((".cls", *IMAGE_SUFFIXES))):
            raise ValueError(f"{path}: {key} has no image and no label (.cls), but {name}: keys end at the first dot")
    with path.open("rb") as file:
        return images, {key: _label(file, place) for key, place in labels.items()}


def _add(found: dict[str, _Place], key: str, place: _Place) -> None:
    if key in found:
        raise ValueError(f"{place[0]}: {key} has two members of one kind, {found[key][3]} and {place[3]}")
    found[key] = place


def _key_and_ending(name: str) -> tuple[str, str]:
    """As WebDataset has it, but ./0.png and 0.png are one name, and what is hidden has no key."""
    name = posixpath.normpath(name).lstrip("/")
    if any(part.startswith(".") and part != ".." for part in name.split("/")):
        return "", ""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _label(file: BinaryIO, place: _Place) -> int:
    path, offset, size, name = place
    file.seek(offset)
    content = file.read(min(size, _LONGEST + 1))
    if len(content) > _LONGEST or not re.fullmatch(rb"\s*-?[0-9]{1,18}\s*", content):
        raise ValueError(f"{path}: {name} is no label: it holds {content[:20]!r}, not the number of a class")
    return int(content)


def _members(path: Path) -> list[tarfile.TarInfo]:
    with path.open("rb") as file:
        start = file.read(100)
        if start.startswith(_MAGIC):
            raise ValueError(f"{path} is compressed; shards must be plain tar files, as images are read by their place")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                members, end = shard.getmembers(), shard.offset
        except Exception as error:  # tarfile's, of several kinds for broken headers
            reason = why_unreadable(start) or error
            raise ValueError(f"{path} is no tar shard of images (NAME.jpg) and labels (NAME.cls): {reason}") from error
        _check_end(path, file, end)
    return members


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Check that zeros follow the last member, and nothing else: tarfile ends early without an error."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise ValueError(f"{path} is cut off: the two blocks of zeros at the end of a tar file are missing")
    if any(block):
        raise ValueError(f"{path} is broken: there is no member's header at byte {end}")
    while chunk := file.read(_CHUNK):
        if any(chunk):
            raise ValueError(f"{path} goes on after its end, as joined tar files do; members would be left out")


# Functions of their own, since lambdas do not travel to the processes that decode.
def _fetch(places: Sequence[_Place], number: int) -> bytes:
    path, offset, size, _ = places[number]
    with path.open("rb") as shard:
        shard.seek(offset)
        return shard.read(size)


def _name(places: Sequence[_Place], number: int) -> str:
    return f"{places[number][0]}: {places[number][3]}"
