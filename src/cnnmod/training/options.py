"""The parts of a recipe that all tasks share: networks, images, optimization, system."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cnnmod.method.config import MoDConfig

Schedule = Literal["step", "cosine", "poly"]
Precision = Literal["fp32", "bf16", "fp16"]
_LARGEST_SIDE = 65535  # of a JPEG


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Which networks are compared."""

    baseline: str
    """The dense network, as `cnnmod.networks.build` takes it."""

    network: str
    """The MoD network: one of cnnmod's, or a dense one that is converted."""

    network_args: dict[str, Any] = field(default_factory=dict)
    """What both are built with."""

    config: MoDConfig = field(default_factory=MoDConfig)
    """The MoD network's choices."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What an image is to a network."""

    image_size: int | tuple[int, int]
    """Height and width in pixels; one number stands for both. A detector resizes images until their short side is the
    smaller number, or their long side the larger."""

    in_channels: int = 3
    """3, or 1 for gray images."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of the pixels from 0 to 1, by channel; images are normalized with it."""

    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of the pixels, by channel."""

    train_images: int | None = None
    """How many images are trained on, the first of a shuffled order; `None` takes all."""

    def __post_init__(self) -> None:
        check_sides("image_size", self.image_size)
        check_fields(self, "≥ 1", "in_channels")
        if self.train_images is not None and self.train_images < 1:
            raise ValueError(f"train_images must be ≥ 1 or None, not {self.train_images}")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std must have {self.in_channels} numbers, not {self.mean} and {self.std}")

    @property
    def size(self) -> tuple[int, int]:
        """`image_size` as two numbers."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights are changed."""

    epochs: int
    """How many times every image is seen."""

    batch_size: int
    """Images in a step, of all processes together."""

    accumulate: int = 1
    """In how many parts a process runs its images of a step."""

    optimizer: str = "momentum"
    """timm's name; `"momentum"` is plain SGD with momentum, `"sgd"` Nesterov's."""

    learning_rate: float
    """The optimizer's."""

    momentum: float = 0.9
    """The optimizer's."""

    weight_decay: float
    """The optimizer's."""

    decay_norms: bool = True
    """Whether norms and biases are decayed too."""

    schedule: Schedule
    """`"step"` multiplies the learning rate by `decay` at each of `milestones`; `"cosine"` goes to 0; `"poly"` to a
    hundredth, as (1 − t)^`decay`."""

    milestones: tuple[int, ...] = ()
    """Epochs, of the schedule `"step"`."""

    decay: float = 0.1
    """A factor of the schedule `"step"`; an exponent of `"poly"`."""

    warmup_epochs: int = 0
    """Epochs with a learning rate that rises from 0."""

    ema_decay: float = 0.0
    """Of a moving average of the weights, which is then what is tested; 0 is none."""

    clip_grad: float = 0.0
    """The largest norm of the gradient; 0 is none."""

    def __post_init__(self) -> None:
        check_fields(self, "≥ 1", "epochs", "batch_size", "accumulate")
        check_fields(self, "> 0", "learning_rate")
        check_fields(self, "≥ 0", "weight_decay", "momentum", "warmup_epochs", "clip_grad", "decay")
        check_fields(self, "from 0 to less than 1", "ema_decay")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("the schedule 'step' needs milestones, the epochs after which the learning rate falls")


@dataclass(frozen=True, kw_only=True)
class System:
    """What the machine makes of it."""

    precision: Precision = "fp32"
    """`"bf16"` and `"fp16"` are automatic mixed precision."""

    channels_last: bool = False
    """Whether the memory format is channels-last."""

    compile: bool = False
    """Whether torch.compile is used."""

    sync_batch_norm: bool = False
    """Whether the statistics of batch norms are of all processes."""


_RANGES = {
    "≥ 1": lambda value: value >= 1,
    "> 0": lambda value: value > 0,
    "≥ 0": lambda value: value >= 0,
    "from 0 to less than 1": lambda value: 0 <= value < 1,
    "from 0 to 1": lambda value: 0 <= value <= 1,
}


def check_fields(part: object, accepted: str, *names: str) -> None:
    """Check numbers of a part; `accepted` is `"≥ 1"`, `"> 0"`, `"≥ 0"`, `"from 0 to less than 1"` or `"from 0 to 1"`.

    Raises:
        ValueError: One is not a number of this range.
    """
    for name in names:
        if not _RANGES[accepted](getattr(part, name)):
            raise ValueError(f"{name} must be {accepted}, not {getattr(part, name)}")


def check_sides(name: str, sides: int | tuple[int, int]) -> None:
    """Check a height and a width in pixels.

    Raises:
        ValueError: One is no size of an image.
    """
    both = (sides,) if isinstance(sides, int) else sides
    if min(both) < 1 or max(both) > _LARGEST_SIDE:
        raise ValueError(f"{name} must be 1 to {_LARGEST_SIDE}, not {sides}")
