"""Draw predictions on images: colored classes with a legend, boxes with labels, or the top-5 classes."""

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

_COLORS = colormaps["tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]  a ListedColormap
_WIDTH = 9  # inches


def prediction_figure(file: Path, prediction: Prediction, name: Name, path: Path) -> None:
    """Draw the prediction for an image and write the picture to a file.

    Args:
        file: The image file.
        prediction: The prediction for the image.
        name: A function from a class index to its name.
        path: The file to write. Its suffix selects the format.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the suffix is not supported, or the image is broken.
    """
    image = decode_file(file, channels=3)
    figure = Figure(figsize=(_WIDTH, _WIDTH * image.height / image.width + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    draw(prediction, axes, image, name)
    write_figure(figure, path)


def color(label: int) -> tuple[float, float, float]:
    """Return the color of a class: red, green and blue from 0 to 1. It is the same in all pictures."""
    return _COLORS[(2 * label + label // 10) % 20]  # saturated colors first


@singledispatch
def draw(prediction: Prediction, axes: Axes, image: Image.Image, name: Name) -> None:
    """Draw an image with the text of the prediction as its title.

    To draw other classes of predictions, register a function with `@draw.register`.
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
    colors: list[Any] = [tuple(round(255 * part) for part in color(label)) for label in labels]
    drawn = draw_segmentation_masks(pil_to_tensor(image), masks, alpha=0.55, colors=colors)
    axes.imshow(drawn.permute(1, 2, 0).numpy())
    patches = [Patch(color=color(label), label=name(label)) for label in labels]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=6, fontsize=8, frameon=False)


@draw.register
def _(prediction: Boxes, axes: Axes, image: Image.Image, name: Name) -> None:
    axes.imshow(image)
    for box, label, score in zip(prediction.boxes.tolist(), prediction.labels, prediction.scores, strict=True):
        left, top, right, bottom = box
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.5, color=color(label)))
        text = f"{name(label)} {score:.2f}"
        side = (
            "bottom" if top > 0.03 * image.height else "top"
        )  # the side of the text at the corner, so that it stays inside the image
        axes.text(left, top, text, fontsize=7, color="white", va=side, clip_on=True).set_bbox(
            {"facecolor": color(label), "pad": 1, "lw": 0}
        )
