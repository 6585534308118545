"""A task that cnnmod does not have: the angle of a bar in an image. Importing this module registers it.

A network returns (N, 2), the cosine and sine of twice the angle, since a bar looks the same after half a turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from cnnmod import MoDConfig
from cnnmod.records.progress import Progress
from cnnmod.training import Recipe
from cnnmod.training.images import Batch, Data, DecodedImages, collate
from cnnmod.training.options import ImageOptions, Networks, Optimization
from cnnmod.training.predictions import Name, Prediction
from cnnmod.training.scores import Score
from cnnmod.training.tasks import Loss, Task, register_task

SIZE = 16


def bar(degrees: float) -> Image.Image:
    """Draw a white bar through the center of a black image."""
    image = Image.new("L", (SIZE, SIZE))
    turned = (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    ends = [(SIZE / 2 + side * 7 * turned[0], SIZE / 2 - side * 7 * turned[1]) for side in (-1, 1)]
    ImageDraw.Draw(image).line(ends, fill=255, width=3)
    return image


@dataclass(frozen=True)
class Bars:
    """A data set of `count` bars at evenly spaced angles, starting at `first` degrees."""

    count: int
    first: float

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> str:
        return f"bar {number}"

    def open(self, number: int, channels: int) -> tuple[Image.Image, float]:
        degrees = (self.first + 180 * number / self.count) % 180
        return bar(degrees), degrees


@dataclass(frozen=True)
class Error(Score):
    """The error of the predicted angles.

        Attributes:
    error_deg: The mean absolute error in degrees.
            images: The number of test images.
            broken: The number of images that could not be read.
    """

    error_deg: float
    images: int
    broken: int

    main, title, unit = "error_deg", "error", "°"

    def summary(self) -> str:
        return f"off by {self.error_deg:.1f}°"

    @property
    def rank(self) -> float:
        return -self.error_deg


class MeanError:
    """The metric of the task, for one process."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        distance = (degrees_of(outputs) - labels).abs() % 180
        self.errors += torch.minimum(distance, 180 - distance).tolist()

    def compute(self, images: int, broken: int) -> Error:
        return Error(round(sum(self.errors) / len(self.errors), 4), images, broken)


@dataclass(frozen=True)
class Angle(Prediction):
    """The angle of the bar."""

    degrees: float

    def values(self, name: Name) -> dict[str, Any]:
        return {"degrees": self.degrees}

    def text(self, name: Name) -> str:
        return f"{self.degrees:.0f}°"


def degrees_of(outputs: Tensor) -> Tensor:
    return torch.rad2deg(torch.atan2(outputs[:, 1], outputs[:, 0])) / 2 % 180


def _transform(image: Image.Image, degrees: float) -> tuple[Tensor, float]:
    return pil_to_tensor(image.convert("L").resize((SIZE, SIZE))) / 255, degrees


@register_task("angle")
@dataclass(frozen=True, kw_only=True)
class AngleOfBar(Task):
    """The angle of a bar from 0 to 180 degrees."""

    held_out: int = 0
    """The number of validation images."""

    score, test_batch_size = Error, 20

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        def made(bars: Bars) -> DecodedImages:
            return DecodedImages(bars, _transform, 1, workers=workers, skip_broken=skip_broken)

        held_out = made(Bars(self.held_out, 0.7)) if self.held_out else None
        return Data(made(Bars(90, 0)), held_out, made(Bars(20, 0.3)), num_classes=2, classes=None)

    def prepare(self, image: Image.Image, images: ImageOptions) -> Batch:
        return collate([_transform(image, 0.0)])

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        def loss(model: Any, images: Tensor, degrees: Tensor) -> Tensor:
            twice = torch.deg2rad(2 * degrees)
            target = torch.stack([twice.cos(), twice.sin()], 1).float()
            return torch.nn.functional.mse_loss(model(images).float(), target)

        return loss

    def metric(self, num_classes: int, device: torch.device) -> MeanError:
        return MeanError()

    def predict(self, outputs: Tensor, size: tuple[int, int], threshold: float) -> Angle:
        return Angle(round(float(degrees_of(outputs)), 2))


def small() -> Recipe:
    """A recipe for a small network and a short training."""
    return Recipe(
        networks=Networks(
            baseline="resnet18_cifar",
            network="resnet18_cifar_mod",
            network_args={"channels": [8, 16, 16, 16], "layers": [2, 2, 1, 1]},
            config=MoDConfig(c=4),
        ),
        task=AngleOfBar(),
        images=ImageOptions(image_size=SIZE, in_channels=1, mean=(0.0,), std=(1.0,)),
        optimization=Optimization(
            epochs=12, batch_size=15, learning_rate=0.1, weight_decay=0, schedule="cosine", optimizer="sgd"
        ),
    )


def files(folder: Path, angles: Sequence[float]) -> Path:
    """Write images of bars, named after their angles."""
    folder.mkdir()
    for degrees in angles:
        bar(degrees).resize((64, 64)).save(folder / f"{degrees:03}.png")
    return folder
