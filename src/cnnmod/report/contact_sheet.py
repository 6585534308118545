"""contact_sheet: many pictures in one image."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from cnnmod.report.image import write_figure

NAME = "contact_sheet.png"
_MOST = 100  # pictures
_COLUMNS = 5


def contact_sheet(pictures: Sequence[Path], path: Path) -> int:
    """Draw the first 100 pictures in rows of five, and write them as one image.

    Args:
        pictures: Image files.
        path: The image file to write. Its suffix sets the format.

    Returns:
        The number of pictures on the sheet.

    Raises:
        OSError: If a file cannot be read or written.
    """
    shown = pictures[:_MOST]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, picture in zip(grid.flat, shown, strict=False):
        with Image.open(picture) as image:
            image.thumbnail((400, 400))
            axes.imshow(image.convert("RGB"))
        axes.set_title(picture.stem, fontsize=8)
    write_figure(figure, path)
    return len(shown)
