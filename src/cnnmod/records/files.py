"""Files are there whole or not at all."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file beside `path` and rename it.

    A file that is replaced keeps its permissions and owner, and a symbolic link keeps pointing to it. What is not a
    regular file, as `/dev/stdout` or a named pipe, is written to directly.

    Raises:
        OSError: The folder does not exist, or the file cannot be written; then nothing is left behind, and what was
            there before is still there.
    """
    path, content = Path(path), content.encode() if isinstance(content, str) else content
    if _is_special(path):
        path.write_bytes(content)
        return
    beside = _beside(path)
    try:
        beside.touch(mode=0o600 if path.exists() else 0o666)  # nobody else reads it before it has its permissions
        beside.write_bytes(content)
        replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def replace(written: Path, path: Path) -> None:
    """Put a finished file in the place of `path`, whose permissions, owner and symbolic link are kept.

    Raises:
        OSError: It cannot be renamed.
    """
    _keep_access(path, written)
    written.replace(_target(path))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out now whether `write_whole` could write this file, rather than after hours of work.

    Raises:
        OSError: It could not.
    """
    path = Path(path)
    if _is_special(path):
        return
    beside = _beside(path)
    try:
        beside.touch()
    finally:
        beside.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """A device or a pipe, which no file can take the place of."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _keep_access(path: Path, written: Path) -> None:
    """Give a file the owner and permissions of the one that it replaces, if there is one."""
    if not path.exists():
        return
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # only root can give files away
            os.chown(written, path.stat().st_uid, path.stat().st_gid)
    shutil.copymode(path, written)


def _target(path: Path) -> Path:
    """The file that symbolic links stand for, whether it exists or not."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _beside(path: Path) -> Path:
    target = _target(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist")
    return target.with_name(f".{target.name}.{os.getpid()}.partial")
