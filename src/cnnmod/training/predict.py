"""Predictions of a trained network for image files."""

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
    """A trained network with its recipe and its class names.

    Attributes:
        model: The network.
        recipe: The recipe that it was trained with.
        classes: The names of the classes, or `None` if the training data had no names.
    """

    model: nn.Module
    recipe: Recipe
    classes: list[str] | None

    @classmethod
    def load(cls, checkpoint: Path) -> "Predictor":
        """Load a checkpoint in a run folder.

        Raises:
            OSError: If the file does not exist, or its folder is not a run folder.
            ValueError: If the file is not a checkpoint.
        """
        device = all_processes().device
        assert device is not None
        recipe, classes = recipe_of(checkpoint), classes_of(checkpoint)
        return cls(load(checkpoint).to(device).eval(), recipe, classes)

    def predict(
        self, files: Sequence[Path], threshold: float = 0.5, skip_broken: bool = False
    ) -> Iterator[tuple[Path, Prediction | Broken]]:
        """Yield each file with its prediction.

        Args:
            files: The image files.
            threshold: Boxes with a lower score are dropped.
            skip_broken: Yield `Broken` for broken images. Otherwise the first one is an error.

        Raises:
            ValueError: If an image is broken. The error names it.
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
        """Return the name of a class, or its index if there are no names."""
        return str(label) if self.classes is None else self.classes[label]
