"""Write figures as image files."""

import io
import os
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from cnnmod.records.files import write_whole


def image_format(path: str | os.PathLike[str]) -> str:
    """Return the image format of a file's suffix. Call it early, so that a wrong suffix raises before long work.

    Raises:
        ValueError: If the suffix is not an image format. The error lists the supported ones.
    """
    suffix, formats = Path(path).suffix.removeprefix("."), FigureCanvasBase.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(f"the suffix of a figure must be one of .{', .'.join(formats)}, not {os.fspath(path)!r}")
    return suffix


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as an image file. It replaces the file at `path` only after it is complete.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the suffix is not an image format.
    """
    content = io.BytesIO()
    figure.savefig(content, format=image_format(path), dpi=120)
    write_whole(path, content.getvalue())
