"""The parts of a recipe that are the same for all tasks: networks, images, optimization and system."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cnnmod.method.choices import Choices
from cnnmod.method.config import MoDConfig

Schedule = Literal["step", "cosine", "poly"]
Precision = Literal["fp32", "bf16", "fp16"]
_LARGEST_SIDE = 65535  # the limit of JPEG


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks to compare."""

    baseline: str
    """The name of the dense network, as `cnnmod.networks.build` takes it."""

    network: str
    """The name of the MoD network: a MoD network of cnnmod, or a dense network to convert."""

    network_args: dict[str, Any] = field(default_factory=dict)
    """The arguments of both factories."""

    config: MoDConfig = field(default_factory=MoDConfig)
    """The configuration of the MoD network."""

    plan: Choices | None = None
    """The choice for each block, as `cnnmod tune` writes it (`cnnmod train --plan`). It replaces `config`."""

    weights: str | None = None
    """A file with a state dict of the dense network (`.pth`, `.pt` or `.safetensors`). All rows start from it. A head
    with another number of classes is replaced by a new one."""

    mod_weights: str | None = None
    """A file of `cnnmod.save` from which the MoD blocks of the plan start: `tuned.safetensors` of `cnnmod tune`."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.baseline != self.network:
            raise ValueError(
                "weights are of one dense network, so baseline and network must be the same, not "
                f"{self.baseline!r} and {self.network!r}"
            )
        if self.mod_weights is not None and self.plan is None:
            raise ValueError("mod_weights need a plan, which says which blocks are MoD blocks")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are prepared for a network."""

    image_size: int | tuple[int, int]
    """Height and width in pixels, or one number for both. Detectors keep the aspect ratio: they resize an image such
    that its short side is the smaller number, unless its long side would exceed the larger one."""

    in_channels: int = 3
    """3, or 1 for gray images."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """The mean of each channel for normalization, with pixel values from 0 to 1."""

    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """The standard deviation of each channel for normalization."""

    train_images: int | None = None
    """How many images to train on, from the start of a shuffled order. `None` means all."""

    def __post_init__(self) -> None:
        check_sides("image_size", self.image_size)
        check_fields(self, "≥ 1", "in_channels")
        if self.train_images is not None and self.train_images < 1:
            raise ValueError(f"train_images must be ≥ 1 or None, not {self.train_images}")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std must have {self.in_channels} numbers each, not {self.mean} and {self.std}")

    @property
    def size(self) -> tuple[int, int]:
        """`image_size` as height and width."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """Optimizer, schedule and batch size."""

    epochs: int
    """Number of passes over the training images."""

    batch_size: int
    """Number of images in a step, over all processes."""

    accumulate: int = 1
    """Gradient accumulation: the number of parts in which a process runs its images of a step."""

    optimizer: str = "momentum"
    """The name of an optimizer in timm. `"momentum"` is plain SGD with momentum, and `"sgd"` uses Nesterov momentum."""

    learning_rate: float
    """The learning rate after warm-up."""

    momentum: float = 0.9
    """The momentum of the optimizer."""

    weight_decay: float
    """The weight decay of the optimizer."""

    decay_norms: bool = True
    """Whether weight decay applies to norms and biases."""

    selector_lr_scale: float = 0.005
    """The factor of the learning rate of channel selectors. Ignored by SGD."""

    mod_lr_scale: float = 1.0
    """The factor of the learning rate of the other weights of MoD blocks. They are new, so they need a higher rate than
    trained weights around them. Ignored if they start from trained weights (`mod_weights`)."""

    schedule: Schedule
    """The learning rate schedule.

    - `"step"`: multiply by `decay` at each of `milestones`.
    - `"cosine"`: decay to 0.
    - `"poly"`: decay to one hundredth, as (1 − t)^`decay`.
    """

    milestones: tuple[int, ...] = ()
    """The epochs at which the schedule `"step"` lowers the learning rate."""

    decay: float = 0.1
    """The factor of the schedule `"step"`, or the exponent of `"poly"`."""

    warmup_epochs: int = 0
    """Number of epochs in which the learning rate rises from 0."""

    ema_decay: float = 0.0
    """The decay of the moving average of the weights, which is then evaluated. 0 disables the average."""

    clip_grad: float = 0.0
    """The maximum norm of the gradient. 0 disables clipping."""

    def __post_init__(self) -> None:
        check_fields(self, "≥ 1", "epochs", "batch_size", "accumulate")
        check_fields(self, "> 0", "learning_rate")
        check_fields(
            self,
            "≥ 0",
            *("weight_decay", "momentum", "warmup_epochs", "clip_grad", "decay", "selector_lr_scale", "mod_lr_scale"),
        )
        check_fields(self, "from 0 to less than 1", "ema_decay")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("the schedule 'step' needs milestones, the epochs at which the learning rate is lowered")


@dataclass(frozen=True, kw_only=True)
class System:
    """Precision, memory format and compiler."""

    precision: Precision = "fp32"
    """`"bf16"` and `"fp16"` use automatic mixed precision."""

    channels_last: bool = False
    """Whether to use the channels-last memory format."""

    compile: bool = False
    """Whether to use torch.compile."""

    sync_batch_norm: bool = False
    """Whether to compute the statistics of batch norms over all processes."""


_RANGES = {
    "≥ 1": lambda value: value >= 1,
    "> 0": lambda value: value > 0,
    "≥ 0": lambda value: value >= 0,
    "from 0 to less than 1": lambda value: 0 <= value < 1,
    "from 0 to 1": lambda value: 0 <= value <= 1,
}


def check_fields(part: object, accepted: str, *names: str) -> None:
    """Check that the named fields of a part are in a range.

    Args:
        part: The object with the fields.
        accepted: `"≥ 1"`, `"> 0"`, `"≥ 0"`, `"from 0 to less than 1"` or `"from 0 to 1"`.
        *names: The names of the fields.

    Raises:
        ValueError: If a field is out of range.
    """
    for name in names:
        if not _RANGES[accepted](getattr(part, name)):
            raise ValueError(f"{name} must be {accepted}, not {getattr(part, name)}")


def check_sides(name: str, sides: int | tuple[int, int]) -> None:
    """Check a height and a width in pixels.

    Raises:
        ValueError: If one is out of range.
    """
    values = (sides,) if isinstance(sides, int) else sides
    if min(values) < 1 or max(values) > _LARGEST_SIDE:
        raise ValueError(f"{name} must be from 1 to {_LARGEST_SIDE}, not {sides}")
