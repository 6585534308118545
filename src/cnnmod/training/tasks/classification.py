"""Image classification: one class per image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from cnnmod.records.progress import Progress
from cnnmod.training.classes import check_classes
from cnnmod.training.images import Batch, Data, DecodedImages, Images, collate
from cnnmod.training.in_memory import ImagesInMemory, decode_into_memory, pixels_of
from cnnmod.training.labeled import open_labeled
from cnnmod.training.metrics import ClassificationMetric
from cnnmod.training.options import ImageOptions, check_fields
from cnnmod.training.predictions import TopClasses
from cnnmod.training.scores import Accuracy
from cnnmod.training.tasks.base import Loss, Task, register_task


@register_task("classification")
@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Image classification. Each image has one class, and a network returns logits (N, classes)."""

    augmentation: Literal["none", "crop_flip", "resized_crop"] = "none"
    """The augmentation of training images.

    - `"none"`: no augmentation. The decoded images are kept in memory.
    - `"crop_flip"`: a random shift by up to one eighth of the size and a random horizontal flip, for small images. The
      decoded images are kept in memory.
    - `"resized_crop"`: random resized crops for photographs. Images are decoded when they are needed.
    """

    auto_augment: str | None = None
    """The name of an auto-augment policy of timm, such as `"rand-m7-mstd0.5"`. Only with `"resized_crop"`."""

    random_erasing: float = 0.0
    """The probability of random erasing. Only with `"resized_crop"`."""

    crop_pct: float = 0.875
    """For evaluation, images are resized to a short side of `image_size / crop_pct`, and then the center is cropped.
    Only with `"resized_crop"`."""

    validation_fraction: float = 0.0
    """The fraction of the training images that is held out for validation. The checkpoint with the best validation
    score is evaluated. With 0, the final checkpoint is evaluated."""

    label_smoothing: float = 0.0
    """The label smoothing of the cross-entropy. 0 disables it."""

    mixup: float = 0.0
    """The alpha of mixup. 0 disables it. If `cutmix` is also set, each step selects one of the two at random."""

    cutmix: float = 0.0
    """The alpha of CutMix. 0 disables it."""

    teacher: str | None = None
    """A teacher for distillation.

    - `"dense"`: the dense network of the recipe with the weights that it starts from.
    - the path of a checkpoint.
    - the name of a network, as `build` takes it. Its pretrained weights are downloaded.
    """

    distill_weight: float = 0.5
    """The weight of the distillation loss, from 0 to 1."""

    distill_temperature: float = 1.0
    """The temperature of the logits of teacher and student."""

    score, test_batch_size, one_class_each = Accuracy, 256, True

    def __post_init__(self) -> None:
        check_fields(self, "> 0", "distill_temperature", "crop_pct")
        check_fields(self, "≥ 0", "mixup", "cutmix")
        check_fields(self, "from 0 to less than 1", "validation_fraction", "label_smoothing")
        check_fields(self, "from 0 to 1", "distill_weight", "random_erasing")
        if self.augmentation != "resized_crop" and (self.auto_augment or self.random_erasing):
            raise ValueError(
                f"auto_augment and random_erasing require the augmentation 'resized_crop', not {self.augmentation!r}"
            )

    def check(self, images: ImageOptions) -> None:
        if images.size[0] != images.size[1]:
            raise ValueError(f"classification needs square images; image_size is {images.image_size}")

    def open_data(
        self, place: str | Path, images: ImageOptions, *, workers: int, skip_broken: bool, progress: Progress
    ) -> Data:
        labeled = open_labeled(place, self.validation_fraction, images.train_images, progress)

        def open_split(split: str, numbers: Sequence[int], training: bool) -> Images:
            if self.augmentation == "resized_crop":
                transform = self._transform(images, training)
                return DecodedImages(
                    labeled.splits[split],
                    transform,
                    images.in_channels,
                    numbers,
                    workers=workers,
                    skip_broken=skip_broken,
                )
            description = f"decoding {'train' if training else split} images"
            return decode_into_memory(
                labeled.splits[split],
                numbers,
                images,
                crop_flip=self.augmentation == "crop_flip",
                skip_broken=skip_broken,
                split=split,
                progress=lambda done, total: progress(description, done, total),
            )

        return Data(
            train=open_split(*labeled.train, True),
            validation=None if labeled.validation is None else open_split(*labeled.validation, False),
            test=open_split(*labeled.test, False),
            num_classes=labeled.num_classes,
            classes=labeled.classes,
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
        return self.loss_with(None, num_classes, device)

    def teacher_name(self) -> str | None:
        return self.teacher

    def loss_with(self, teacher: nn.Module | None, num_classes: int, device: torch.device) -> Loss:
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
                teacher_logits = teacher(images).float()
            if teacher_logits.shape != logits.shape:
                raise ValueError(f"the teacher has {teacher_logits.shape[-1]} classes, the images have {num_classes}")
            soft = nn.functional.kl_div(
                (logits / temperature).log_softmax(1),
                (teacher_logits / temperature).log_softmax(1),
                log_target=True,
                reduction="batchmean",
            )
            return (1 - self.distill_weight) * hard + self.distill_weight * temperature**2 * soft

        return loss

    def metric(self, num_classes: int, device: torch.device) -> ClassificationMetric:
        return ClassificationMetric(num_classes, device)

    def predict(self, outputs: Tensor, size: tuple[int, int], threshold: float) -> TopClasses:
        probabilities, classes = outputs[0].float().softmax(0).topk(min(5, outputs.shape[1]))
        return TopClasses(classes.tolist(), [round(value, 4) for value in probabilities.tolist()])

    def _transform(self, images: ImageOptions, training: bool) -> "_ImageTransform":
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
        except (AssertionError, ValueError, TypeError) as error:  # timm raises these for an unknown policy
            raise ValueError(
                f"auto_augment {self.auto_augment!r} is not an auto-augment policy of timm: {error}"
            ) from error
        return _ImageTransform(transform)


@dataclass(frozen=True)
class _ImageTransform:
    """Apply a timm transform to an image and keep its label."""

    transform: Any

    def __call__(self, image: Image.Image, label: int) -> tuple[Tensor, int]:
        return self.transform(image), label
