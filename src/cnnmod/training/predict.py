"""Predictions of a trained network for image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnnmod.training.decode import decode_file
from cnnmod.training.images import Broken
from cnnmod.training.predictions import Prediction
from cnnmod.training.processes import process_device
from cnnmod.training.recipe import Recipe
from cnnmod.training.trained import open_trained


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
    def load(
        cls,
        checkpoint: Path | None = None,
        *,
        network: str | None = None,
        weights: Path | None = None,
        recipe: str | None = None,
        changes: Sequence[str] = (),
    ) -> "Predictor":
        """Load a checkpoint, or a network with weights. The arguments are those of `open_trained`.

        Raises:
            OSError: As `open_trained`.
            ValueError: As `open_trained`.
        """
        trained = open_trained(checkpoint, network=network, weights=weights, recipe=recipe, changes=changes)
        return cls(trained.model.to(process_device()).eval(), trained.recipe, trained.classes)

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
