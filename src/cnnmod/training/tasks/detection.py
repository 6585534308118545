"""Detection: boxes around objects, each with a class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image as Photograph
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, Progress, collate
from cnnmod.training.options import ImageOptions
from cnnmod.training.predictions import Boxes
from cnnmod.training.scenes import find_boxes
from cnnmod.training.scores import Precision, PrecisionOfBoxes
from cnnmod.training.tasks.base import Loss, register_task
from cnnmod.training.tasks.dense import OverBackbone, open_scenes


@register_task("detection")
@dataclass(frozen=True, kw_only=True)
class Detection(OverBackbone):
    """A network returns boxes, labels and scores of each image, in training its losses, as torchvision's detectors."""

    augmentation: Literal["none", "flip"] = "none"
    """`"flip"` mirrors an image and its boxes or not."""

    score = Precision

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        size = {"min_size": min(images.size), "max_size": max(images.size)}
        return size | super().network_args(images, given)

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        return open_scenes(
            place,
            find_boxes(Path(place)),
            images.train_images,
            lambda training: _Transform(self, training),
            stacked=False,
            workers=workers,
            skip_broken=skip_broken,
        )

    def check_data(self, data: Data, progress: Progress) -> None:
        check_classes(data, "box", progress, seen="there are boxes of", first=1)

    def prepare(self, image: Photograph, images: ImageOptions) -> Batch:
        none = torch.zeros(0, dtype=torch.long)
        nothing = {"boxes": torch.zeros(0, 4), "labels": none, "difficult": none}
        return collate([_Transform(self, False)(image, nothing)], stacked=False)

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        return _sum_of_losses

    def metric(self, num_classes: int, device: torch.device) -> PrecisionOfBoxes:
        return PrecisionOfBoxes(num_classes)

    def predict(self, outputs: list[dict[str, Tensor]], size: tuple[int, int], threshold: float) -> Boxes:
        (found,) = outputs
        kept = found["scores"] >= threshold
        scores = [round(value, 4) for value in found["scores"][kept].tolist()]
        return Boxes(found["boxes"][kept].cpu(), found["labels"][kept].tolist(), scores)


def _sum_of_losses(model: Callable[..., dict[str, Tensor]], images: Any, labels: Any) -> Tensor:
    return torch.stack(list(model(images, labels).values())).sum()


class _Transform:
    """An image from 0 to 1, in training mirrored, and its boxes; resizing is the network's."""

    def __init__(self, task: Detection, training: bool) -> None:
        self.training = training
        steps = [v2.RandomHorizontalFlip()] if training and task.augmentation == "flip" else []
        self.transform = v2.Compose([*steps, v2.ToDtype({Image: torch.float32, "others": None}, scale=True)])

    def __call__(self, photograph: Photograph, label: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        image = Image(pil_to_tensor(photograph))
        size: Any = tuple(image.shape[-2:])
        kind = {"format": BoundingBoxFormat.XYXY, "canvas_size": size}
        boxes = BoundingBoxes(label["boxes"], **kind)
        image, boxes = self.transform(image, boxes)
        changed = label | {"boxes": boxes.as_subclass(Tensor)}
        if self.training:
            easy = changed["difficult"] == 0
            changed = {name: values[easy] for name, values in changed.items()}
        return image.as_subclass(Tensor), changed
