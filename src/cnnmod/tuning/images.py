"""tuning_images: the images of a data set on which the MoD blocks of all choices are trained and compared."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnmod.method.trace import meta_forward
from cnnmod.training.images import Data, Images
from cnnmod.training.recipe import Recipe

_EVALUATION_BATCH = 256


class Split:
    """Batches of images and labels, the same in each pass.

    Args:
        images: The images.
        batch_size: The size of each batch.
        shuffled: Whether the images are shuffled and augmented, and the last incomplete batch is left out.
    """

    def __init__(self, images: Images, batch_size: int, *, shuffled: bool) -> None:
        self.images, self.draw = images, 0 if shuffled else None
        order = torch.arange(len(images))
        if shuffled:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
            order = order[: len(order) // batch_size * batch_size]
        self.order = list(order.split(batch_size))

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.images.batches(self.order, self.draw):
            yield batch.images, batch.labels


def tuning_images(data: Data, recipe: Recipe, model: nn.Module) -> tuple[Split, Split]:
    """Return the training images, and the validation images as held-out images. The test images are not used.

    Raises:
        ValueError: If the task is not classification, there are no validation images or fewer training images than the
            batch size, or the network has another number of classes.
    """
    if not recipe.task.one_class_each:
        raise ValueError("tune compares accuracies, so it needs a recipe for classification; use --plan-only")
    size, batch_size = recipe.images.size, recipe.optimization.batch_size
    outputs = meta_forward(model, torch.empty(1, recipe.images.in_channels, *size, device="meta"))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != data.num_classes:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"the data set has {data.num_classes} classes, but the network returns {shape}")
    if data.validation is None or not len(data.validation):
        raise ValueError("tune compares choices on validation images; add --set validation_fraction=0.1")
    if len(data.train) < batch_size:
        raise ValueError(f"there are {len(data.train)} training images, fewer than batch_size = {batch_size}")
    return (
        Split(data.train, batch_size, shuffled=True),
        Split(data.validation, _EVALUATION_BATCH, shuffled=False),
    )
