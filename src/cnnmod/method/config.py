"""MoDConfig: every choice of the method in one frozen dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

Select: TypeAlias = Literal["learned", "random", "first", "slots"]
Order: TypeAlias = Literal["score", "index"]
Scale: TypeAlias = Literal["output", "input", "none"]
FuseTo: TypeAlias = Literal["first", "last", "original", "all"]
PlacementRule: TypeAlias = Callable[[int, int], bool]
Placement: TypeAlias = Literal["alternate", "all"] | tuple[str, ...] | PlacementRule


@dataclass(frozen=True, kw_only=True, slots=True)
class MoDConfig:
    """How a network's blocks become MoD blocks; the defaults are the paper's (section 3).

    Attributes:
        c: A MoD block of C channels selects k = max(1, C // c) of them. `None` takes the number of channels that
            enter the network's first Conv-Block (64 for ResNet and VGG, 16 for MobileNetV2); converted blocks hold it.
        reduction: The channel selector's hidden width is max(1, C // reduction).
        select: `"learned"` takes the k channels with the highest importance scores. `"random"` draws them anew in
            each forward pass in training and keeps one draw in evaluation; it has no channel selector and scales
            nothing (the paper's ablation). `"first"` always takes the first k, scaled by their importance scores.
            `"slots"`, ours: the jth input of the Conv-Block is the highest-scored of the channels j, j + k, j + 2k, …,
            so that a kernel always reads the same group; the last C mod k channels are in no group.
        order: The selected channels enter the Conv-Block by descending `"score"` or by ascending channel `"index"`.
        scale: What the importance scores multiply: the Conv-Block's `"output"`, the paper's, or its `"input"`, ours.
            `"none"`, for a fixed selection: nothing; there is then no channel selector.
        fuse_to: Where the result is added: the `"first"` k channels, the `"last"` k, or the `"original"` places of
            the selected channels. `"all"`, ours: a learned 1×1 convolution, zero at the start, takes it from k to all C
            channels, and the host block's last activation follows the addition.
        candidates: The channel selector sees, and selects among, only the first `candidates * k` channels (rounded
            up to a multiple of 16, never more than C). `None` is the paper's: all C.
        residual: Whether the Conv-Block keeps its own residual connection.
        identity_start: Whether a MoD block starts as the identity: its scores are multiplied by a learned gain of each
            selected place, and the gains start at zero. For networks that keep pretrained weights; not the paper's.
        placement: Which blocks of a module become MoD blocks. `"alternate"`: the odd positions, counted from 0.
            `"all"`: every position but 0. A tuple of names: exactly these blocks. A callable
            `(module, position) -> bool`: both counted from 0. A module's first block always stays a standard block.

    Raises:
        ValueError: A value that is not accepted, with the values that are.

    Examples:
        >>> MoDConfig(order="index", candidates=4).candidates
        4
        >>> MoDConfig(order="random")
        Traceback (most recent call last):
        ...
        ValueError: order must be one of 'score', 'index', not 'random'
    """

    c: int | None = None
    reduction: int = 16
    select: Select = "learned"
    order: Order = "score"
    scale: Scale = "output"
    fuse_to: FuseTo = "first"
    candidates: int | None = None
    residual: bool = True
    identity_start: bool = False
    placement: Placement = "alternate"

    def __post_init__(self) -> None:
        for name in ("c", "candidates"):
            if getattr(self, name) is not None:
                _check_positive_int(name, getattr(self, name), " or None")
        _check_positive_int("reduction", self.reduction)
        for name, accepted in (("select", Select), ("order", Order), ("scale", Scale), ("fuse_to", FuseTo)):
            value = getattr(self, name)
            if value not in get_args(accepted):
                listed = ", ".join(map(repr, get_args(accepted)))
                raise ValueError(f"{name} must be one of {listed}, not {value!r}")
        if self.scale == "none" and self.select in ("learned", "slots"):
            raise ValueError(f"scale='none' leaves select={self.select!r} without a gradient; it needs select='first'")
        for name in ("residual", "identity_start"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        is_names = isinstance(self.placement, tuple) and all(isinstance(name, str) for name in self.placement)
        if not (self.placement in ("alternate", "all") or is_names or callable(self.placement)):
            raise ValueError(
                "placement must be 'alternate', 'all', a tuple of block names or a callable "
                f"(module, position) -> bool, not {self.placement!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; `from_dict` reads them back.

        Raises:
            ValueError: `placement` is a callable, which no file can hold. The MoD blocks of a converted network
                hold the resulting names instead, so their `config` always has a dictionary.

        Examples:
            >>> MoDConfig.from_dict(MoDConfig(c=32).to_dict()) == MoDConfig(c=32)
            True
        """
        if callable(self.placement):
            raise ValueError(f"a callable placement has no dictionary form: {self.placement!r}")
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MoDConfig":
        """The inverse of `to_dict`; a missing field takes its default, an unknown one is a `ValueError`."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown MoDConfig field {', '.join(unknown)}; the fields are {', '.join(sorted(known))}")
        values = dict(values)
        if isinstance(values.get("placement"), list):
            values["placement"] = tuple(values["placement"])
        return cls(**values)


def _check_positive_int(name: str, value: object, also: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer{also}, not {value!r}")
