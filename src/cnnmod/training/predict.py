"""What a trained network says of images that nobody has labelled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.networks import load
from cnnmod.training.decode import decode_file
from cnnmod.training.folder import classes_of, recipe_of
from cnnmod.training.images import Broken
from cnnmod.training.predictions import Prediction
from cnnmod.training.processes import all_processes
from cnnmod.training.recipe import Recipe


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
                image = decode_file(file, self.recipe.images.in_channels)
            except ValueError as error:
                if not skip_broken:
                    raise
                yield file, Broken(str(error))
                continue
            batch = self.recipe.task.prepare(image, self.recipe.images)
            with torch.inference_mode():
                outputs = self.model(batch.to(device).images)
            yield file, self.recipe.task.predict(outputs, (image.height, image.width), threshold)

    def name(self, label: int) -> str:
        """What a class is called."""
        return str(label) if self.classes is None else self.classes[label]
