"""Figures as image files."""

import io
import os
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from cnnmod.records.files import write_whole


def image_format(path: str | os.PathLike[str]) -> str:
    """The format that a file's ending says, so that a wrong one shows before the work.

    Raises:
        ValueError: An ending that is no image format, with those that are.
    """
    ending, endings = Path(path).suffix.removeprefix("."), FigureCanvasBase.get_supported_filetypes()
    if ending not in endings:
        raise ValueError(f"a figure's file name ends in one of .{', .'.join(endings)}; {os.fspath(path)!r} does not")
    return ending


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure beside `path` and rename it.

    Raises:
        OSError: The file cannot be written.
        ValueError: An ending that is no image format.
    """
    content = io.BytesIO()
    figure.savefig(content, format=image_format(path), dpi=120)
    write_whole(path, content.getvalue())
