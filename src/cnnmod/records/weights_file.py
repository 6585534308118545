"""read_start: the first bytes of a file of weights, after an error for what is often given in its place."""

from pathlib import Path

PICKLES = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # the first bytes of torch.save's files
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_EXPORTED = (".onnx", ".xml", ".pt2")


def read_start(path: Path) -> bytes:
    """Return the first 256 bytes of a file of weights.

    Raises:
        OSError: If the file cannot be read, or is a folder.
        ValueError: If the file is empty, a web page, a pointer of Git LFS or an exported network.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pth"
        >>> path.write_bytes(b"PK")
        2
        >>> read_start(path).startswith(PICKLES)
        True
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file of weights{file_hint(path)}")
    with path.open("rb") as file:
        start = file.read(256)
    if path.suffix in _EXPORTED:
        raise ValueError(f"{path} is an exported network, not a file of weights; name the file that was exported")
    text = start.lstrip().lower()
    if not start:
        raise ValueError(f"{path} is empty")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ValueError(f"{path} is a web page (HTML), not a file of weights; download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of Git LFS, not a file of weights; fetch the file with git lfs pull")
    return start


def file_hint(folder: Path) -> str:
    """Return the end of an error message that names a file of weights in the folder, or "" if there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    return f"; name a file in it, such as {files[0]}" if files else ""
