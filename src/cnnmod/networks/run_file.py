"""trained_on: what `run.json` says about the images of the checkpoints next to it, without the packages of training."""

from dataclasses import dataclass
from pathlib import Path

from cnnmod.records.parse import parse, read_json


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The images on which a network was trained.

    Attributes:
        size: Height and width of the test images in pixels.
        mean: The mean of each channel, with pixel values from 0 to 1.
        std: The standard deviation of each channel.
        classes: The names of the classes, or `None` if the data set has no names.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[str] | None


def trained_on(checkpoint: Path) -> TrainedOn | None:
    """Return what the run of a checkpoint says about its images, or `None` if it is in no run folder.

    Raises:
        OSError: If `run.json` cannot be read.
        ValueError: If the content of `run.json` is invalid.
    """
    path = checkpoint.parent / "run.json"
    if not checkpoint.is_file() or not path.is_file():
        return None
    content = read_json(path)
    try:
        recipe = content["run"]["recipe"]
        images = recipe.get("images", recipe)  # older recipes have no parts
        size = images["image_size"]
        values = {
            "size": [size, size] if isinstance(size, int) else size,
            "mean": images["mean"],
            "std": images["std"],
            "classes": content.get("classes"),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the file of a run: it does not say how images are prepared") from error
    found = parse(TrainedOn, values, str(path))
    if min(found.size) < 1:
        raise ValueError(f"{path}: image_size must be ≥ 1, not {size}")
    return found
