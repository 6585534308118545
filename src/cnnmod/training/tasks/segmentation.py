"""Segmentation: each pixel has a class."""

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

from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, Progress, collate
from cnnmod.training.options import ImageOptions, check_fields, check_sides
from cnnmod.training.predictions import ClassMap
from cnnmod.training.scenes import IGNORED, find_masks
from cnnmod.training.scores import Overlap, OverlapOfPixels
from cnnmod.training.tasks.base import Loss, register_task
from cnnmod.training.tasks.dense import OverBackbone, open_scenes


@register_task("segmentation")
@dataclass(frozen=True, kw_only=True)
class Segmentation(OverBackbone):
    """Each pixel has a class; a network returns logits (N, classes, H, W) as `"out"`, and may as `"aux"`."""

    augmentation: Literal["none", "scale_crop_flip"] = "none"
    """`"scale_crop_flip"` resizes image and mask by a factor, cuts out a part and mirrors it or not."""

    scale: tuple[float, float] = (1.0, 1.0)
    """With `"scale_crop_flip"`: from which to which factor images are resized besides."""

    crop_size: tuple[int, int] | None = None
    """With `"scale_crop_flip"`: height and width of what is cut out then; `None` takes `image_size`."""

    photometric: bool = False
    """With `"scale_crop_flip"`: whether brightness, contrast, saturation and hue are changed too."""

    classes: tuple[str, ...] = ()
    """The classes of a mask's pixel values 0, 1, …, where the data does not name them."""

    ignore: int = IGNORED
    """A mask's pixel value that counts nowhere."""

    label_smoothing: float = 0.0
    """Of the cross-entropy; 0 is none."""

    aux_weight: float = 0.4
    """The auxiliary head's part of the loss."""

    score = Overlap

    def __post_init__(self) -> None:
        if self.crop_size is not None:
            check_sides("crop_size", self.crop_size)
        check_fields(self, "≥ 0", "aux_weight")
        check_fields(self, "from 0 to less than 1", "label_smoothing")
        for name, times in Counter(name.strip() for name in self.classes).items():
            if times > 1:
                raise ValueError(f"classes names {name!r} {times} times; each class has a name of its own")
        if not len(self.classes) <= self.ignore <= IGNORED:
            raise ValueError(
                f"ignore must be a pixel value from the number of classes, {len(self.classes)}, to {IGNORED}, not "
                f"{self.ignore}"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two factors > 0, the smaller first, not {self.scale}")

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        return open_scenes(
            place,
            find_masks(Path(place), self.classes, self.ignore),
            images.train_images,
            lambda training: _Transform(self, images, training),
            stacked=True,
            workers=workers,
            skip_broken=skip_broken,
        )

    def check_data(self, data: Data, progress: Progress) -> None:
        check_classes(data, "pixel", progress, seen="the masks have the values")

    def prepare(self, image: Photograph, images: ImageOptions) -> Batch:
        nothing_HW = torch.zeros(image.height, image.width, dtype=torch.uint8)
        return collate([_Transform(self, images, False)(image, nothing_HW)])

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        def loss(model: Callable[..., dict[str, Tensor]], images: Tensor, labels: Tensor) -> Tensor:
            counted = (labels != IGNORED).sum().clamp(min=1)  # a crop may hold nothing else
            losses = {
                head: nn.functional.cross_entropy(
                    logits.float(), labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="sum"
                )
                / counted
                for head, logits in model(images).items()
            }
            return losses["out"] + self.aux_weight * losses["aux"] if "aux" in losses else losses["out"]

        return loss

    def metric(self, num_classes: int, device: torch.device) -> OverlapOfPixels:
        return OverlapOfPixels(num_classes, device)

    def predict(self, outputs: dict[str, Tensor], size: tuple[int, int], threshold: float) -> ClassMap:
        logits = nn.functional.interpolate(outputs["out"].float(), size=size, mode="bilinear", align_corners=False)
        return ClassMap(logits[0].argmax(0).cpu())


class _Transform:
    """An image and its mask, resized, in training cut out and mirrored; the image normalized."""

    def __init__(self, task: Segmentation, images: ImageOptions, training: bool) -> None:
        self.size, self.scale = images.size, task.scale
        self.crop_size = task.crop_size or images.size
        self.changes = training and task.augmentation == "scale_crop_flip"
        steps: list[Any] = []
        if self.changes:
            fill: Any = {Image: 0, Mask: IGNORED}
            steps += [v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill), v2.RandomHorizontalFlip()]
            steps += [v2.RandomPhotometricDistort()] if task.photometric else []
        to_float = v2.ToDtype({Image: torch.float32, "others": None}, scale=True)
        self.transform = v2.Compose([*steps, to_float, v2.Normalize(images.mean, images.std)])

    def __call__(self, photograph: Photograph, mask_HW: Tensor) -> tuple[Tensor, Tensor]:
        image, mask, size = Image(pil_to_tensor(photograph)), Mask(mask_HW), self.size
        if self.changes:
            if image.shape[-2] < self.crop_size[0] or image.shape[-1] < self.crop_size[1]:
                raise ValueError(
                    f"has {image.shape[-2]} × {image.shape[-1]} pixels, fewer than are cut out: {self.crop_size}"
                )
            factor = float(torch.empty(1).uniform_(*self.scale))
            size = (round(factor * size[0]), round(factor * size[1]))
        image, mask = self.transform(resize(image, list(size)), resize(mask, list(size)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()
