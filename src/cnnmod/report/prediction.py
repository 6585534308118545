"""Pictures of what a network says of an image: coloured classes with a legend, boxes with labels, the top-5."""

from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import draw_segmentation_masks

from cnnmod.report.image import write_figure
from cnnmod.training.decode import decode_file
from cnnmod.training.predictions import Boxes, ClassMap, Name, Prediction, TopClasses

_COLOURS = colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]  of a list of colours
_WIDTH = 9  # inches


def prediction_figure(file: Path, prediction: Prediction, name: Name, path: Path) -> None:
    """Draw an image and what a network says of it.

    Args:
        file: The image.
        prediction: Of it.
        name: A class → what it is called.
        path: The image file to write; its ending says the format.

    Raises:
        OSError: The file cannot be written.
        ValueError: Its ending is no format that can be drawn, or the image is broken.
    """
    image = decode_file(file, channels=3)
    figure = Figure(figsize=(_WIDTH, _WIDTH * image.height / image.width + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    draw(prediction, axes, image, name)
    write_figure(figure, path)


def colour(label: int) -> tuple[float, float, float]:
    """A class's colour, red, green and blue from 0 to 1; the same in every picture."""
    return _COLOURS[(2 * label + label // 10) % 20]  # strong colours first


@singledispatch
def draw(prediction: Prediction, axes: Axes, image: Image.Image, name: Name) -> None:
    """Draw an image, and what a network says of it in words above it.

    Predictions of other classes are drawn by functions of their own: `@draw.register`.
    """
    axes.imshow(image)
    axes.set_title(prediction.text(name), fontsize=9)


@draw.register
def _(prediction: TopClasses, axes: Axes, image: Image.Image, name: Name) -> None:
    axes.imshow(image)
    shares = zip(prediction.labels, prediction.probabilities, strict=True)
    axes.set_title("   ".join(f"{name(label)} {share:.2f}" for label, share in shares), fontsize=9)


@draw.register
def _(prediction: ClassMap, axes: Axes, image: Image.Image, name: Name) -> None:
    labels = prediction.labels_HW.unique().tolist()
    masks = torch.stack([prediction.labels_HW == label for label in labels])
    colours: list[Any] = [tuple(round(255 * part) for part in colour(label)) for label in labels]
    drawn = draw_segmentation_masks(pil_to_tensor(image), masks, alpha=0.55, colors=colours)
    axes.imshow(drawn.permute(1, 2, 0).numpy())
    patches = [Patch(color=colour(label), label=name(label)) for label in labels]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=6, fontsize=8, frameon=False)


@draw.register
def _(prediction: Boxes, axes: Axes, image: Image.Image, name: Name) -> None:
    axes.imshow(image)
    for box, label, score in zip(prediction.boxes.tolist(), prediction.labels, prediction.scores, strict=True):
        left, top, right, bottom = box
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.5, color=colour(label)))
        text = f"{name(label)} {score:.2f}"
        side = "bottom" if top > 0.03 * image.height else "top"  # of the text, which would lie outside else
        axes.text(left, top, text, fontsize=7, color="white", va=side, clip_on=True).set_bbox(
            {"facecolor": colour(label), "pad": 1, "lw": 0}
        )
