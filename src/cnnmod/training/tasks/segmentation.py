"""Semantic segmentation: one class per pixel."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image as Photograph
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resize
from torchvision.tv_tensors import Image, Mask

from cnnmod.records.progress import Progress
from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, collate
from cnnmod.training.masks import IGNORED
from cnnmod.training.metrics import SegmentationMetric
from cnnmod.training.options import ImageOptions, check_fields, check_sides
from cnnmod.training.predictions import ClassMap
from cnnmod.training.scene_layouts import SceneData, find_masks
from cnnmod.training.scores import Overlap
from cnnmod.training.tasks.base import Loss, register_task
from cnnmod.training.tasks.dense import BackboneTask


@register_task("segmentation")
@dataclass(frozen=True, kw_only=True)
class Segmentation(BackboneTask):
    """Semantic segmentation. A network returns logits (N, classes, H, W) as `"out"`, and optionally as `"aux"`."""

    augmentation: Literal["none", "scale_crop_flip"] = "none"
    """`"scale_crop_flip"` resizes image and mask by a random factor, then applies a random crop and horizontal flip."""

    scale: tuple[float, float] = (1.0, 1.0)
    """The smallest and largest resize factor of `"scale_crop_flip"`, relative to `image_size`."""

    crop_size: tuple[int, int] | None = None
    """The height and width of the crop of `"scale_crop_flip"`. `None` means `image_size`."""

    photometric: bool = False
    """Whether `"scale_crop_flip"` also changes brightness, contrast, saturation and hue at random."""

    classes: tuple[str, ...] = ()
    """The names of the classes with the mask values 0, 1, …, for data sets that do not name them."""

    ignore: int = IGNORED
    """The mask value of pixels that loss and metric ignore."""

    label_smoothing: float = 0.0
    """The label smoothing of the cross-entropy. 0 disables it."""

    aux_weight: float = 0.4
    """The weight of the loss of the auxiliary head."""

    score = Overlap

    def __post_init__(self) -> None:
        if self.crop_size is not None:
            check_sides("crop_size", self.crop_size)
        check_fields(self, "≥ 0", "aux_weight")
        check_fields(self, "from 0 to less than 1", "label_smoothing")
        for name, count in Counter(name.strip() for name in self.classes).items():
            if count > 1:
                raise ValueError(f"classes has {name!r} {count} times; the names must be unique")
        if not len(self.classes) <= self.ignore <= IGNORED:
            raise ValueError(
                f"ignore must be from {len(self.classes)} (the number of classes) to {IGNORED}, not {self.ignore}"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two factors > 0 in ascending order, not {self.scale}")

    def find(self, folder: Path) -> SceneData:
        return find_masks(folder, self.classes, self.ignore)

    def transform(self, images: ImageOptions, training: bool) -> "_Transform":
        return _Transform(self, images, training)

    def check_data(self, data: Data, progress: Progress) -> None:
        check_classes(data, "pixel", progress, label_text="the masks have the values")

    def prepare(self, image: Photograph, images: ImageOptions) -> Batch:
        mask_HW = torch.zeros(image.height, image.width, dtype=torch.uint8)
        return collate([_Transform(self, images, False)(image, mask_HW)])

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        def loss(model: Callable[..., dict[str, Tensor]], images: Tensor, labels: Tensor) -> Tensor:
            num_pixels = (labels != IGNORED).sum().clamp(min=1)  # a crop may have only ignored pixels
            losses = {
                head: nn.functional.cross_entropy(
                    logits.float(), labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="sum"
                )
                / num_pixels
                for head, logits in model(images).items()
            }
            return losses["out"] + self.aux_weight * losses["aux"] if "aux" in losses else losses["out"]

        return loss

    def metric(self, num_classes: int, device: torch.device) -> SegmentationMetric:
        return SegmentationMetric(num_classes, device)

    def predict(self, outputs: dict[str, Tensor], size: tuple[int, int], threshold: float) -> ClassMap:
        logits = nn.functional.interpolate(outputs["out"].float(), size=size, mode="bilinear", align_corners=False)
        return ClassMap(logits[0].argmax(0).cpu())


class _Transform:
    """Resize an image and its mask, normalize the image, and augment both in training."""

    def __init__(self, task: Segmentation, images: ImageOptions, training: bool) -> None:
        self.size, self.scale = images.size, task.scale
        self.crop_size = task.crop_size or images.size
        self.augments = training and task.augmentation == "scale_crop_flip"
        steps: list[Any] = []
        if self.augments:
            fill: Any = {Image: 0, Mask: IGNORED}
            steps += [v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill), v2.RandomHorizontalFlip()]
            steps += [v2.RandomPhotometricDistort()] if task.photometric else []
        to_float = v2.ToDtype({Image: torch.float32, "others": None}, scale=True)
        self.transform = v2.Compose([*steps, to_float, v2.Normalize(images.mean, images.std)])

    def __call__(self, photograph: Photograph, mask_HW: Tensor) -> tuple[Tensor, Tensor]:
        image, mask, size = Image(pil_to_tensor(photograph)), Mask(mask_HW), self.size
        if self.augments:
            if image.shape[-2] < self.crop_size[0] or image.shape[-1] < self.crop_size[1]:
                raise ValueError(
                    f"has {image.shape[-2]} × {image.shape[-1]} pixels, which is smaller than the crop {self.crop_size}"
                )
            factor = float(torch.empty(1).uniform_(*self.scale))
            size = (round(factor * size[0]), round(factor * size[1]))
        image, mask = self.transform(resize(image, list(size)), resize(mask, list(size)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()
