"""write_whole, write_json: write a file atomically; user_cache: the folder of compiled code."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it to `path`.

    An existing file keeps its permissions and owner. If `path` is a symbolic link, the file that it points to is
    replaced. Devices and named pipes, such as `/dev/stdout`, are written to directly.

    Raises:
        OSError: If the folder does not exist or the file cannot be written. An existing file is then unchanged, and no
            temporary file remains.
    """
    path, content = Path(path), content.encode() if isinstance(content, str) else content
    if _is_special(path):
        path.write_bytes(content)
        return
    temporary = _temporary(path)
    try:
        temporary.touch(mode=0o600 if path.exists() else 0o666)  # private until it has the existing file's permissions
        temporary.write_bytes(content)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write values as a JSON file, as `write_whole` does.

    Raises:
        OSError: As `write_whole`.
        ValueError: If a number is NaN or infinite.
    """
    write_whole(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def replace(written: Path, path: Path) -> None:
    """Rename a finished file to `path`. The permissions, owner and symbolic link of `path` are kept.

    Raises:
        OSError: If the file cannot be renamed.
    """
    _keep_access(path, written)
    written.replace(_target(path))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that `write_whole` can write this file. Call it before a long computation.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    if _is_special(path):
        return
    temporary = _temporary(path)
    try:
        temporary.touch()
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create a folder, with its parents, if it does not exist.

    Raises:
        OSError: If it cannot be created, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, not a folder")
    path.mkdir(parents=True, exist_ok=True)


def user_cache() -> Path:
    """Return the folder of cnnmod in the user's cache (`XDG_CACHE_HOME`), and create it.

    Raises:
        OSError: If the folder cannot be created.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cnnmod"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_special(path: Path) -> bool:
    """Whether the path is a device or a pipe, which must not be replaced by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _keep_access(path: Path, written: Path) -> None:
    """Copy the owner and permissions of an existing file to the new file that replaces it."""
    if not path.exists():
        return
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # only root can change the owner
            os.chown(written, path.stat().st_uid, path.stat().st_gid)
    shutil.copymode(path, written)


def _target(path: Path) -> Path:
    """Return the file that a symbolic link points to. The file need not exist."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _temporary(path: Path) -> Path:
    """Return the name of the temporary file for `path`."""
    target = _target(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist")
    return target.with_name(f".{target.name}.{os.getpid()}.partial")
