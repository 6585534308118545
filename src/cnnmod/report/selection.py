"""A figure of the channels that MoD blocks select for each class, as in the paper's figure 4."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cnnmod.measure.selection import Selection
from cnnmod.report.image import write_figure

_MOST_NAMES = 20


def selection_figure(selections: Sequence[Selection], classes: Sequence[str] | None, path: Path) -> None:
    """Draw a map for each MoD block to an image file.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the suffix of the path is not an image format.
    """
    write_figure(draw_selections(selections, classes), path)


def draw_selections(selections: Sequence[Selection], classes: Sequence[str] | None) -> Figure:
    """Draw a map for each MoD block: one row per class, one column per channel, the share of images in gray."""
    count = len(selections[0].images)
    figure = Figure(figsize=(8, 0.6 + len(selections) * max(0.9, 0.16 * min(count, _MOST_NAMES))), layout="constrained")
    for axes, selection in zip(figure.subplots(len(selections), squeeze=False)[:, 0], selections, strict=True):
        image = axes.imshow(
            selection.shares.numpy(), aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set_title(
            f"{selection.block}: {selection.k} of {selection.channels} channels; entropy {selection.entropy:.2f}; "
            f"{100 * selection.most_selected_share:.0f} % of images select the same",
            fontsize=8,
            loc="left",
        )
        if classes is not None and count <= _MOST_NAMES:
            axes.set_yticks(range(count), classes)
        axes.tick_params(labelsize=6)
        figure.colorbar(image, ax=axes, pad=0.01).ax.tick_params(labelsize=6)
    return figure
