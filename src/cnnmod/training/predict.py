"""What a trained network says of images that nobody has labelled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.networks import load
from cnnmod.training.data import image_of_file
from cnnmod.training.decode import decode_file
from cnnmod.training.folder import classes_of, recipe_of
from cnnmod.training.processes import all_processes
from cnnmod.training.recipe import Recipe


@dataclass(frozen=True)
class TopClasses:
    """The classes with the highest probabilities, at most five, the highest first."""

    labels: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class ClassMap:
    """The class of every pixel of the image, (H, W)."""

    labels_HW: Tensor


@dataclass(frozen=True)
class Boxes:
    """Boxes (x1, y1, x2, y2) in the image's pixels, each with its class and score, the highest score first."""

    boxes: Tensor
    labels: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Broken:
    """The image cannot be read, and why not."""

    reason: str


Prediction = TopClasses | ClassMap | Boxes


@dataclass(frozen=True)
class Predictor:
    """A trained network and how its images are prepared.

    Attributes:
        model: The network.
        recipe: It was trained by.
        classes: Their names, where the training's data had names.
    """

    model: nn.Module
    recipe: Recipe
    classes: list[str] | None

    @classmethod
    def load(cls, checkpoint: Path) -> "Predictor":
        """Of a checkpoint in a run's folder.

        Raises:
            OSError: There is no such file, or its folder holds no run.
            ValueError: It is no checkpoint.
        """
        device = all_processes().device
        assert device is not None
        recipe, classes = recipe_of(checkpoint), classes_of(checkpoint)
        return cls(load(checkpoint).to(device).eval(), recipe, classes)

    def predict(
        self, files: Sequence[Path], threshold: float = 0.5, skip_broken: bool = False
    ) -> Iterator[tuple[Path, Prediction | Broken]]:
        """What it says of each image.

        Args:
            files: The images.
            threshold: The lowest score of a box that is returned.
            skip_broken: Return `Broken` for images that are broken, instead of stopping at the first.

        Raises:
            ValueError: An image is broken; the error names it.
        """
        device = next(self.model.parameters()).device
        for file in files:
            try:
                batch = image_of_file(file, self.recipe)
            except ValueError as error:
                if not skip_broken:
                    raise
                yield file, Broken(str(error))
                continue
            with torch.inference_mode():
                outputs = self.model(batch.to(device).images)
            if isinstance(outputs, dict):
                image = decode_file(file, self.recipe.in_channels)
                yield file, _class_map(outputs["out"], (image.height, image.width))
            else:
                yield file, _of_outputs(outputs, threshold)

    def name(self, label: int) -> str:
        """What a class is called."""
        return str(label) if self.classes is None else self.classes[label]


def _class_map(logits: Tensor, size: tuple[int, int]) -> ClassMap:
    """Of the logits for one image of this height and width."""
    logits = nn.functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return ClassMap(logits[0].argmax(0).cpu())


def _of_outputs(outputs: Any, threshold: float) -> Prediction:
    """Of the outputs for one image, to classify or to detect in."""
    if isinstance(outputs, Tensor):
        probabilities, classes = outputs[0].float().softmax(0).topk(min(5, outputs.shape[1]))
        return TopClasses(classes.tolist(), [round(value, 4) for value in probabilities.tolist()])
    (found,) = outputs
    kept = found["scores"] >= threshold
    scores = [round(value, 4) for value in found["scores"][kept].tolist()]
    return Boxes(found["boxes"][kept].cpu(), found["labels"][kept].tolist(), scores)
