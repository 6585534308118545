"""Classification: each image has one class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from cnnmod.networks import build, load
from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, DecodedImages, Images, Progress, collate
from cnnmod.training.in_memory import ImagesInMemory, decode_into_memory, pixels_of
from cnnmod.training.labelled import open_labelled
from cnnmod.training.options import ImageOptions, check_fields
from cnnmod.training.predictions import TopClasses
from cnnmod.training.scores import Accuracy, TopOfLogits
from cnnmod.training.tasks.base import Loss, Task, register_task


@register_task("classification")
@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Each image has one class; a network returns logits (N, classes)."""

    augmentation: Literal["none", "crop_flip", "resized_crop"] = "none"
    """`"none"`; `"crop_flip"`, a shift by up to an eighth of the size and a mirror image, for small images, which are
    kept in memory; `"resized_crop"`, for photographs, which are decoded as they come."""

    auto_augment: str | None = None
    """timm's name of a policy, as `"rand-m7-mstd0.5"`; with `"resized_crop"` only."""

    random_erasing: float = 0.0
    """Its probability; with `"resized_crop"` only."""

    crop_pct: float = 0.875
    """For evaluation the short side is `image_size / crop_pct` before the center is cut out; with `"resized_crop"`
    only."""

    validation_fraction: float = 0.0
    """How much of the training images is held out; then the checkpoint that is best on them is the one that is tested.
    0 tests the last."""

    label_smoothing: float = 0.0
    """Of the cross-entropy; 0 is none."""

    mixup: float = 0.0
    """An alpha; 0 is none. With `cutmix` too, each step draws one of the two."""

    cutmix: float = 0.0
    """An alpha; 0 is none."""

    teacher: str | None = None
    """A dense teacher whose logits are learned: a checkpoint's path, or a network as `build` takes it, with its
    pretrained weights, which are fetched."""

    distill_weight: float = 0.5
    """The teacher's part of the loss."""

    distill_temperature: float = 1.0
    """How much the logits of teacher and student are softened."""

    score, test_batch_size, one_class_each = Accuracy, 256, True

    def __post_init__(self) -> None:
        check_fields(self, "> 0", "distill_temperature", "crop_pct")
        check_fields(self, "≥ 0", "mixup", "cutmix")
        check_fields(self, "from 0 to less than 1", "validation_fraction", "label_smoothing")
        check_fields(self, "from 0 to 1", "distill_weight", "random_erasing")
        if self.augmentation != "resized_crop" and (self.auto_augment or self.random_erasing):
            raise ValueError(
                f"auto_augment and random_erasing go with the augmentation 'resized_crop', not {self.augmentation!r}"
            )

    def check(self, images: ImageOptions) -> None:
        if images.size[0] != images.size[1]:
            raise ValueError(f"images to classify are square; image_size is {images.image_size}")

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        found = open_labelled(place, self.validation_fraction, images.train_images, progress)

        def made(split: str, numbers: Sequence[int], training: bool) -> Images:
            if self.augmentation == "resized_crop":
                transform = self._transform(images, training)
                return DecodedImages(
                    found.splits[split],
                    transform,
                    images.in_channels,
                    numbers,
                    workers=workers,
                    skip_broken=skip_broken,
                )
            what = f"decoding {'train' if training else split} images"
            return decode_into_memory(
                found.splits[split],
                numbers,
                images,
                crop_flip=self.augmentation == "crop_flip",
                skip_broken=skip_broken,
                split=split,
                progress=lambda done, total: progress(what, done, total),
            )

        return Data(
            train=made(*found.train, True),
            validation=None if found.validation is None else made(*found.validation, False),
            test=made(*found.test, False),
            num_classes=found.num_classes,
            classes=found.classes,
        )

    def check_data(self, data: Data, progress: Progress) -> None:
        check_classes(data, "image", progress)

    def prepare(self, image: Image.Image, images: ImageOptions) -> Batch:
        if self.augmentation == "resized_crop":
            return collate([self._transform(images, False)(image, 0)])
        pixels = pixels_of(image, images)[None]
        (batch,) = ImagesInMemory(pixels, torch.zeros(1, dtype=torch.long), images).batches([torch.arange(1)])
        return batch

    def loss(self, num_classes: int, device: torch.device) -> Loss:
        return self.loss_with(self._teacher(num_classes), num_classes, device)

    def loss_with(self, teacher: nn.Module | None, num_classes: int, device: torch.device) -> Loss:
        """The loss with a teacher that is already built; it is put into evaluation mode."""
        mixes: list[nn.Module] = []
        if self.mixup:
            mixes.append(MixUp(alpha=self.mixup, num_classes=num_classes))
        if self.cutmix:
            mixes.append(CutMix(alpha=self.cutmix, num_classes=num_classes))
        mix = RandomChoice(mixes) if mixes else None
        if teacher is not None:
            teacher.to(device).eval()

        def loss(model: Callable[..., Tensor], images: Tensor, targets: Tensor) -> Tensor:
            if mix is not None:
                images, targets = mix(images, targets)
            logits = model(images).float()
            hard = nn.functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
            if teacher is None:
                return hard
            temperature = self.distill_temperature
            with torch.no_grad():
                taught = teacher(images).float()
            soft = nn.functional.kl_div(
                (logits / temperature).log_softmax(1),
                (taught / temperature).log_softmax(1),
                log_target=True,
                reduction="batchmean",
            )
            return (1 - self.distill_weight) * hard + self.distill_weight * temperature**2 * soft

        return loss

    def metric(self, num_classes: int, device: torch.device) -> TopOfLogits:
        return TopOfLogits(num_classes, device)

    def predict(self, outputs: Tensor, size: tuple[int, int], threshold: float) -> TopClasses:
        probabilities, classes = outputs[0].float().softmax(0).topk(min(5, outputs.shape[1]))
        return TopClasses(classes.tolist(), [round(value, 4) for value in probabilities.tolist()])

    def _transform(self, images: ImageOptions, training: bool) -> "_Photograph":
        augmentation = {"auto_augment": self.auto_augment, "re_prob": self.random_erasing, "color_jitter": 0.0}
        try:
            transform = create_transform(
                (images.in_channels, *images.size),
                is_training=training,
                mean=images.mean,
                std=images.std,
                crop_pct=self.crop_pct,
                **(augmentation if training else {}),
            )
        except (AssertionError, ValueError, TypeError) as error:  # what timm raises at a policy that it does not know
            raise ValueError(f"auto_augment {self.auto_augment!r} is no policy of timm's: {error}") from error
        return _Photograph(transform)

    def _teacher(self, num_classes: int) -> nn.Module | None:
        if self.teacher is None:
            return None
        if Path(self.teacher).is_file():
            return load(self.teacher)
        return build(self.teacher, pretrained=True, num_classes=num_classes)


@dataclass(frozen=True)
class _Photograph:
    """timm's transform of an image, beside its label."""

    transform: Any

    def __call__(self, image: Image.Image, label: int) -> tuple[Tensor, int]:
        return self.transform(image), label
