"""A recipe: everything that decides a network's weights, but where the images are and the seed."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from cnnmod.method.config import MoDConfig
from cnnmod.records.changes import read_change, unknown_name
from cnnmod.records.parse import parse

Task = Literal["classification", "segmentation", "detection"]
Augmentation = Literal["none", "crop_flip", "resized_crop", "flip", "scale_crop_flip"]
Schedule = Literal["step", "cosine", "poly"]
Precision = Literal["fp32", "bf16", "fp16"]
IGNORED = 255  # a pixel's class that counts nowhere
_AUGMENTATIONS: dict[Task, tuple[Augmentation, ...]] = {
    "classification": ("none", "crop_flip", "resized_crop"),
    "segmentation": ("none", "scale_crop_flip"),
    "detection": ("none", "flip"),
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dense network, its MoD form and its control are trained, so that their accuracies can be compared.

    Attributes:
        baseline: The dense network of the comparison, as `cnnmod.networks.build` takes it.
        network: The MoD network: one of cnnmod's, or a dense one that is converted.
        network_args: What both are built with.
        config: The MoD network's choices.
        task: What the networks do.
        image_size: Height and width in pixels, one number for both. Images to segment are resized to it; to detect in,
            until their short side is the smaller number, or their long side the larger.
        in_channels: 3, or 1 for grey images.
        mean, std: Of the pixels from 0 to 1, by channel; images are normalised with them.
        augmentation: `"none"`; `"crop_flip"`, a shift by up to an eighth of the size and a mirror image, for small
            images, which are kept in memory; `"resized_crop"`, for photographs, which are decoded as they come; to
            segment `"scale_crop_flip"`, to detect `"flip"`.
        scale: With `"scale_crop_flip"`: from which to which factor images are resized besides.
        crop_size: With `"scale_crop_flip"`: height and width of what is cut out then; `None` takes `image_size`.
        photometric: With `"scale_crop_flip"`: whether brightness, contrast, saturation and hue are changed too.
        classes: The classes of a mask's pixel values 0, 1, …, where the data does not name them.
        ignore: A mask's pixel value that counts nowhere.
        backbone_weights: To segment or detect: the file of a classifier whose weights the backbone starts from; in it
            `{row}` stands for the row, as each has a backbone of its own.
        aux_weight: To segment, the auxiliary head's part of the loss.
        auto_augment: timm's name of a policy, as `"rand-m7-mstd0.5"`; with `"resized_crop"` only.
        random_erasing: Its probability; with `"resized_crop"` only.
        crop_pct: For evaluation the short side is `image_size / crop_pct` before the centre is cut out; with
            `"resized_crop"` only.
        validation_fraction: How much of the training images is held out; then the checkpoint that is best on them is
            the one that is tested. 0 tests the last.
        train_images: Train on so many only, the first of a shuffled order; `None` takes all.
        epochs: How many times every image is seen.
        batch_size: Images in a step, of all processes together.
        accumulate: In how many parts a process runs its images of a step.
        optimizer: timm's name; `"momentum"` is plain SGD with momentum, `"sgd"` Nesterov's.
        learning_rate, momentum, weight_decay: The optimizer's.
        decay_norms: Whether norms and biases are decayed too.
        schedule: `"step"` multiplies the learning rate by `decay` at each of `milestones`; `"cosine"` goes to 0;
            `"poly"` to a hundredth, as (1 − t)^`decay`.
        milestones, decay: Of `"step"`; epochs, and a factor.
        warmup_epochs: With a learning rate that rises from 0.
        label_smoothing, mixup, cutmix: 0 is none; the latter two are alphas, of which each step draws one.
        ema_decay: Of a moving average of the weights, which is then what is tested; 0 is none.
        clip_grad: The largest norm of the gradient; 0 is none.
        teacher: A dense teacher whose logits are learned: a checkpoint's path, or a network as `build` takes it, with
            its pretrained weights, which are fetched.
        distill_weight, distill_temperature: The teacher's part of the loss, and how much its logits are softened.
        precision: `"bf16"` and `"fp16"` are automatic mixed precision.
        channels_last, compile, sync_batch_norm: The memory format; torch.compile; statistics over all processes.
    """

    baseline: str
    network: str
    network_args: dict[str, Any] = field(default_factory=dict)
    config: MoDConfig = field(default_factory=MoDConfig)
    task: Task = "classification"
    image_size: int | tuple[int, int]
    in_channels: int = 3
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    augmentation: Augmentation
    scale: tuple[float, float] = (1.0, 1.0)
    crop_size: tuple[int, int] | None = None
    photometric: bool = False
    classes: tuple[str, ...] = ()
    ignore: int = IGNORED
    backbone_weights: str | None = None
    aux_weight: float = 0.4
    auto_augment: str | None = None
    random_erasing: float = 0.0
    crop_pct: float = 0.875
    validation_fraction: float = 0.0
    train_images: int | None = None
    epochs: int
    batch_size: int
    accumulate: int = 1
    optimizer: str = "momentum"
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float
    decay_norms: bool = True
    schedule: Schedule
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    clip_grad: float = 0.0
    teacher: str | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 1.0
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        if min(*self.size, *(self.crop_size or (1,))) < 1:
            raise ValueError(f"image_size and crop_size must be ≥ 1, not {self.image_size} and {self.crop_size}")
        for name in ("in_channels", "epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, not {getattr(self, name)}")
        for name in ("learning_rate", "distill_temperature", "crop_pct"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, not {getattr(self, name)}")
        for name in (
            "weight_decay",
            "momentum",
            "warmup_epochs",
            "mixup",
            "cutmix",
            "clip_grad",
            "decay",
            "aux_weight",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be ≥ 0, not {getattr(self, name)}")
        for name in ("validation_fraction", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to less than 1, not {getattr(self, name)}")
        for name in ("distill_weight", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.train_images is not None and self.train_images < 1:
            raise ValueError(f"train_images must be ≥ 1 or None, not {self.train_images}")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std must have {self.in_channels} numbers, not {self.mean} and {self.std}")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("the schedule 'step' needs milestones, the epochs after which the learning rate falls")
        if self.augmentation not in _AUGMENTATIONS[self.task]:
            raise ValueError(
                f"augmentation {self.augmentation!r} is not for {self.task}, which takes "
                f"{', '.join(_AUGMENTATIONS[self.task])}"
            )
        if self.task != "classification" and self.in_channels != 3:
            raise ValueError(f"images to segment or detect in have 3 channels, not in_channels = {self.in_channels}")
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
        if self.task == "classification" and self.size[0] != self.size[1]:
            raise ValueError(f"images to classify are square; image_size is {self.image_size}")
        if self.task != "classification" and (self.mixup or self.cutmix or self.teacher or self.validation_fraction):
            raise ValueError(
                f"mixup, cutmix, a teacher and validation_fraction are for classification, not for {self.task}"
            )
        if self.backbone_weights and self.task == "classification":
            raise ValueError("backbone_weights are for segmentation and detection")
        if self.augmentation != "resized_crop" and (self.auto_augment or self.random_erasing):
            raise ValueError(
                f"auto_augment and random_erasing go with the augmentation 'resized_crop', not {self.augmentation!r}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """`image_size` as two numbers."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; `from_dict` reads them back."""
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return json.loads(json.dumps(values | {"config": self.config.to_dict()}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; a missing field with a default takes it, an unknown one is a `ValueError`."""
        hints = get_type_hints(cls)
        if unknown := [name for name in values if name not in hints]:
            raise ValueError(unknown_name("recipe field", unknown[0], hints))
        return cls(**{name: parse(hints[name], value, name) for name, value in values.items()})

    def changed(self, changes: Sequence[str]) -> "Recipe":
        """The same with some fields changed.

        Args:
            changes: `"field=value"`, the value as JSON or a plain word; `"config.field=value"` for the MoD config's,
                `"network_args.name=value"` for the network's arguments.

        Raises:
            ValueError: An unknown field, with the nearest; or a value that does not fit.
        """
        values = self.to_dict()
        for change in changes:
            key, value = read_change(change)
            holder, _, inner = key.partition(".")
            fields = values
            if inner and holder in ("config", "network_args"):
                fields, key = values[holder], inner
                if holder == "config" and key not in fields:
                    raise ValueError(unknown_name("config field", key, fields))
            elif key not in values:
                raise ValueError(unknown_name("recipe field", key, values))
            fields[key] = value
        return Recipe.from_dict(values)
