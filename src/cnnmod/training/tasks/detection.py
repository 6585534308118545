"""Object detection: boxes around objects, each with a class."""

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

from cnnmod.records.progress import Progress
from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, collate
from cnnmod.training.metrics import DetectionMetric
from cnnmod.training.options import ImageOptions
from cnnmod.training.predictions import Boxes
from cnnmod.training.scene_layouts import SceneData, find_boxes
from cnnmod.training.scores import AveragePrecision
from cnnmod.training.tasks.base import Loss, register_task
from cnnmod.training.tasks.dense import BackboneTask


@register_task("detection")
@dataclass(frozen=True, kw_only=True)
class Detection(BackboneTask):
    """Object detection with the interface of torchvision's detectors.

    In training mode a network returns its losses. In evaluation mode it returns boxes, labels and scores per image.
    """

    augmentation: Literal["none", "flip"] = "none"
    """`"flip"` applies a random horizontal flip to the image and its boxes."""

    score, stacked = AveragePrecision, False

    def network_args(self, images: ImageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
        size = {"min_size": min(images.size), "max_size": max(images.size)}
        return size | super().network_args(images, given)

    def find(self, folder: Path) -> SceneData:
        return find_boxes(folder)

    def transform(self, images: ImageOptions, training: bool) -> "_Transform":
        return _Transform(self, training)

    def check_data(self, data: Data, progress: Progress) -> None:
        check_classes(data, "box", progress, label_text="there are boxes of", first_class=1)

    def prepare(self, image: Photograph, images: ImageOptions) -> Batch:
        none = torch.zeros(0, dtype=torch.long)
        label = {"boxes": torch.zeros(0, 4), "labels": none, "difficult": none}
        return collate([_Transform(self, False)(image, label)], stacked=False)

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        return _sum_of_losses

    def metric(self, num_classes: int, device: torch.device) -> DetectionMetric:
        return DetectionMetric(num_classes)

    def predict(self, outputs: list[dict[str, Tensor]], size: tuple[int, int], threshold: float) -> Boxes:
        (output,) = outputs
        kept = output["scores"] >= threshold
        scores = [round(value, 4) for value in output["scores"][kept].tolist()]
        return Boxes(output["boxes"][kept].cpu(), output["labels"][kept].tolist(), scores)


def _sum_of_losses(model: Callable[..., dict[str, Tensor]], images: Any, labels: Any) -> Tensor:
    return torch.stack(list(model(images, labels).values())).sum()


class _Transform:
    """Convert an image to values from 0 to 1, and flip image and boxes in training. The network resizes the image."""

    def __init__(self, task: Detection, training: bool) -> None:
        self.training = training
        steps = [v2.RandomHorizontalFlip()] if training and task.augmentation == "flip" else []
        self.transform = v2.Compose([*steps, v2.ToDtype({Image: torch.float32, "others": None}, scale=True)])

    def __call__(self, photograph: Photograph, label: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        image = Image(pil_to_tensor(photograph))
        size: Any = tuple(image.shape[-2:])
        options = {"format": BoundingBoxFormat.XYXY, "canvas_size": size}
        boxes = BoundingBoxes(label["boxes"], **options)
        image, boxes = self.transform(image, boxes)
        label = label | {"boxes": boxes.as_subclass(Tensor)}
        if self.training:
            easy = label["difficult"] == 0
            label = {name: values[easy] for name, values in label.items()}
        return image.as_subclass(Tensor), label
