"""Read WebDataset tar shards with random access, so that each image is read exactly once per epoch."""

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

_Member = tuple[Path, int, int, str]  # shard, offset, size, name
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_CHUNK = 1 << 20  # bytes
_MAX_LABEL = 40  # bytes


def find_shards(folder: Path) -> Sources | None:
    """Find the tar shards in a folder. Return `None` if there are none.

    Keys are as in WebDataset: the path of a member up to the first dot of its base name. Each key has one image and one
    label. Hidden members and members with other suffixes are ignored.

    Raises:
        ValueError: If a shard is broken or compressed, or a key does not have exactly one image and one label. The
            error names the shard and the key.
    """
    for files in files_by_split(folder, _COMPRESSED).values():
        raise ValueError(f"{files[0]} is compressed; shards must be uncompressed tar files for random access")
    splits = {split: _source(paths) for split, paths in files_by_split(folder, [".tar"]).items()}
    return Sources(splits, None) if splits else None


def _source(paths: Sequence[Path]) -> Source:
    labels: list[int] = []
    members: list[_Member] = []
    for path in paths:
        images, classes = _index(path)
        labels += [classes[key] for key in images]
        members += images.values()
    return Source(labels, partial(_fetch, members), partial(_name, members))


def _index(path: Path) -> tuple[dict[str, _Member], dict[str, int]]:
    """Return the image member and the label of each key."""
    images: dict[str, _Member] = {}
    labels: dict[str, _Member] = {}
    other_members: dict[str, str] = {}
    for tar_member in _members(path):
        key, suffix = _key_and_suffix(tar_member.name)
        if not key or tar_member.isdir():
            continue
        if f".{suffix}" not in IMAGE_SUFFIXES and suffix != "cls":
            other_members.setdefault(key, tar_member.name)
            continue
        if not tar_member.isreg() or tar_member.issparse():
            raise ValueError(f"{path}: {tar_member.name} is a link or a sparse file; only regular files are supported")
        member = (path, tar_member.offset_data, tar_member.size, tar_member.name)
        _add(labels if suffix == "cls" else images, key, member)
    for key in sorted(images.keys() ^ labels.keys()):
        present, missing = ("an image", "label (.cls)") if key in images else ("a label (.cls)", "image")
        hint = f"; it has {other_members[key]}, but keys end at the first dot of a name" if key in other_members else ""
        raise ValueError(f"{path}: {key} has {present} but no {missing}{hint}")
    for key, name in other_members.items():
        if key not in images and (not images or name.lower().endswith((".cls", *IMAGE_SUFFIXES))):
            raise ValueError(
                f"{path}: {key} has no image and no label (.cls); it has {name}, but keys end at the first dot"
            )
    with path.open("rb") as file:
        return images, {key: _label(file, member) for key, member in labels.items()}


def _add(members: dict[str, _Member], key: str, member: _Member) -> None:
    if key in members:
        raise ValueError(f"{member[0]}: {key} has two images or two labels, {members[key][3]} and {member[3]}")
    members[key] = member


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Split a name as WebDataset does, but treat ./0.png and 0.png as equal. Hidden files have an empty key."""
    name = posixpath.normpath(name).lstrip("/")
    if any(part.startswith(".") and part != ".." for part in name.split("/")):
        return "", ""
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _label(file: BinaryIO, member: _Member) -> int:
    path, offset, size, name = member
    file.seek(offset)
    content = file.read(min(size, _MAX_LABEL + 1))
    if len(content) > _MAX_LABEL or not re.fullmatch(rb"\s*-?[0-9]{1,18}\s*", content):
        raise ValueError(f"{path}: the label {name} must be a class number, not {content[:20]!r}")
    return int(content)


def _members(path: Path) -> list[tarfile.TarInfo]:
    with path.open("rb") as file:
        start = file.read(100)
        if start.startswith(_MAGIC):
            raise ValueError(f"{path} is compressed; shards must be uncompressed tar files for random access")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                members, end = shard.getmembers(), shard.offset
        except Exception as error:  # tarfile raises many types for broken headers
            reason = why_unreadable(start) or error
            raise ValueError(
                f"{path} is not a tar shard of images (NAME.jpg) and labels (NAME.cls): {reason}"
            ) from error
        _check_end(path, file, end)
    return members


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Check that only zeros follow the last member, since tarfile ignores an early end."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise ValueError(f"{path} is truncated: the two blocks of zeros at the end of a tar file are missing")
    if any(block):
        raise ValueError(f"{path} is broken: there is no member header at byte {end}")
    while chunk := file.read(_CHUNK):
        if any(chunk):
            raise ValueError(f"{path} has content after its end, as concatenated tar files do, which is not supported")


# Module-level functions, since worker processes cannot unpickle lambdas.
def _fetch(members: Sequence[_Member], number: int) -> bytes:
    path, offset, size, _ = members[number]
    with path.open("rb") as shard:
        shard.seek(offset)
        return shard.read(size)


def _name(members: Sequence[_Member], number: int) -> str:
    return f"{members[number][0]}: {members[number][3]}"
