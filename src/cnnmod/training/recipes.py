"""Recipes: everything that decides a network's weights, but where the images are and the seed."""

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from cnnmod.method.config import MoDConfig
from cnnmod.records.parse import parse

Augmentation = Literal["none", "crop_flip", "resized_crop"]
Schedule = Literal["step", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dense network, its MoD form and its control are trained, so that their accuracies can be compared.

    Attributes:
        baseline: The dense network of the comparison, as `cnnmod.networks.build` takes it.
        network: The MoD network: one of cnnmod's, or a dense one that is converted.
        network_args: What both are built with.
        config: The MoD network's choices.
        image_size: Height and width in pixels.
        in_channels: 3, or 1 for grey images.
        mean, std: Of the pixels from 0 to 1, by channel; images are normalised with them.
        augmentation: `"none"`; `"crop_flip"`, a shift by up to an eighth of the size and a mirror image, for small
            images, which are kept in memory; `"resized_crop"`, for photographs, which are decoded as they come.
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
        schedule: `"step"` multiplies the learning rate by `decay` at each of `milestones`; `"cosine"` goes to 0.
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
    image_size: int
    in_channels: int = 3
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    augmentation: Augmentation
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
        for name in ("image_size", "in_channels", "epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, not {getattr(self, name)}")
        for name in ("learning_rate", "distill_temperature", "crop_pct"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, not {getattr(self, name)}")
        for name in ("weight_decay", "momentum", "warmup_epochs", "mixup", "cutmix", "clip_grad", "decay"):
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
        if self.augmentation != "resized_crop" and (self.auto_augment or self.random_erasing):
            raise ValueError(
                f"auto_augment and random_erasing go with the augmentation 'resized_crop', not {self.augmentation!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; `from_dict` reads them back."""
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return json.loads(json.dumps(values | {"config": self.config.to_dict()}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; a missing field with a default takes it, an unknown one is a `ValueError`."""
        hints = get_type_hints(cls)
        if unknown := [name for name in values if name not in hints]:
            raise ValueError(_unknown("recipe field", unknown[0], hints))
        return cls(**{name: parse(hints[name], value, name) for name, value in values.items()})


def recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of this name, with some of its fields changed.

    Args:
        name: One of `RECIPES`.
        changes: `"field=value"`, the value as JSON or a plain word; `"config.field=value"` for the MoD config's.

    Raises:
        ValueError: An unknown recipe or field, with the nearest; or a value that does not fit.

    Example:
        >>> recipe("digits", ["epochs=3", "config.order=index"]).config.order
        'index'
        >>> recipe("digits", ["epoch=3"])
        Traceback (most recent call last):
        ...
        ValueError: unknown recipe field 'epoch'; did you mean epochs, warmup_epochs?
    """
    if name not in RECIPES:
        raise ValueError(_unknown("recipe", name, RECIPES))
    values = RECIPES[name]().to_dict()
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"a change is field=value, not {change!r}")
        holder, _, inner = key.partition(".")
        fields = values
        if inner and holder in ("config", "network_args"):
            fields, key = values[holder], inner
            if holder == "config" and key not in fields:
                raise ValueError(_unknown("config field", key, fields))
        elif key not in values:
            raise ValueError(_unknown("recipe field", key, values))
        fields[key] = _value(text)
    return Recipe.from_dict(values)


def _value(text: str) -> Any:
    words = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"


def digits() -> Recipe:
    """scikit-learn's scanned digits in a minute: a quarter of ResNet18's width, two to four blocks a module."""
    return Recipe(
        baseline="resnet18_cifar",
        network="resnet18_cifar_mod",
        network_args={"channels": [16, 32, 64, 128], "layers": [2, 4, 4, 1]},
        config=MoDConfig(c=8, reduction=4),
        image_size=8,
        in_channels=1,
        mean=(0.0,),
        std=(1.0,),
        augmentation="none",
        epochs=20,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
        schedule="cosine",
        warmup_epochs=5,
    )


def cifar10_fast() -> Recipe:
    """CIFAR-10 in ten epochs, for two cores: ResNet18 at a quarter of its width."""
    return dataclasses.replace(
        cifar10(),
        network_args={"channels": [16, 32, 64, 128]},
        validation_fraction=0.0,
        epochs=10,
        optimizer="sgd",
        learning_rate=0.2,
        weight_decay=5e-4,
        schedule="cosine",
        milestones=(),
        warmup_epochs=2,
        label_smoothing=0.1,
        channels_last=True,
    )


def cifar10() -> Recipe:
    """The paper's, for CIFAR-10: 90/10 split, best checkpoint; the rest as in its authors' sibling papers."""
    return Recipe(
        baseline="resnet18_cifar",
        network="resnet18_cifar_mod",
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augmentation="crop_flip",
        validation_fraction=0.1,
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=1e-4,
        schedule="step",
        milestones=(90, 136),
    )


def cifar100() -> Recipe:
    """The paper's, for CIFAR-100, and for VGG on both: ×0.2 at 60, 120 and 160, weight decay 5e-4."""
    return dataclasses.replace(cifar10(), weight_decay=5e-4, milestones=(60, 120, 160), decay=0.2)


def imagenet() -> Recipe:
    """The paper's, for ResNets on ImageNet: 100 epochs, batch 256, SGD 0.1, ×0.1 every 30 epochs."""
    return Recipe(
        baseline="resnet50",
        network="resnet75_mod",
        image_size=224,
        augmentation="resized_crop",
        epochs=100,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=1e-4,
        schedule="step",
        milestones=(30, 60, 90),
        channels_last=True,
    )


def imagenet_mobilenetv2() -> Recipe:
    """MobileNetV2 on ImageNet. The paper states no recipe; this is the one that is common for it: 150 epochs, batch
    256, cosine from 0.05, weight decay 4e-5."""
    return dataclasses.replace(
        imagenet(),
        baseline="mobilenetv2_100",
        network="mobilenetv2_mod_l",
        epochs=150,
        learning_rate=0.05,
        weight_decay=4e-5,
        schedule="cosine",
        milestones=(),
    )


def imagenet_short() -> Recipe:
    """A modern short one, the A3 of "ResNet strikes back" (Wightman, Touvron, Jégou 2021, arXiv 2110.00476), its binary
    cross-entropy replaced by label smoothing: 100 epochs at 160 pixels, LAMB, cosine, mixup and cutmix."""
    return dataclasses.replace(
        imagenet(),
        image_size=160,
        auto_augment="rand-m6-mstd0.5-inc1",
        crop_pct=0.95,
        batch_size=2048,
        optimizer="lamb",
        learning_rate=8e-3,
        weight_decay=0.02,
        decay_norms=False,
        schedule="cosine",
        milestones=(),
        warmup_epochs=5,
        label_smoothing=0.1,
        mixup=0.1,
        cutmix=1.0,
        precision="bf16",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    made.__name__: made
    for made in (digits, cifar10_fast, cifar10, cifar100, imagenet, imagenet_mobilenetv2, imagenet_short)
}
