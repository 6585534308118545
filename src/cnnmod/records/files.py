"""Files are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file beside `path` and rename it.

    Raises:
        OSError: The folder does not exist, or the file cannot be written; then nothing is left behind, and what was
            there before is still there.
    """
    path = Path(path)
    beside = _beside(path)
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out now whether `write_whole` could write this file, rather than after hours of work.

    Raises:
        OSError: It could not.
    """
    beside = _beside(Path(path))
    try:
        beside.touch()
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} does not exist")
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
