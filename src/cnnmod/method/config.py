"""MoDConfig: all settings of the method in one frozen dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

Select: TypeAlias = Literal["learned", "random", "first"]
Order: TypeAlias = Literal["score", "index"]
Scale: TypeAlias = Literal["output", "input", "none"]
FuseTo: TypeAlias = Literal["first", "last", "original", "all"]
PlacementRule: TypeAlias = Callable[[int, int], bool]
Placement: TypeAlias = Literal["alternate", "all"] | tuple[str, ...] | PlacementRule


@dataclass(frozen=True, kw_only=True, slots=True)
class MoDConfig:
    """Settings for converting a network's blocks to MoD blocks. The defaults are the paper's (section 3).

    Attributes:
        c: A MoD block of C channels selects k = max(1, C // c) of them. `None` uses the number of input channels of
            the network's first Conv-Block (64 for ResNet and VGG, 16 for MobileNetV2). The config of a converted
            block holds this number.
        reduction: The channel selector's hidden width is max(1, C // reduction).
        select: `"learned"` selects the k channels with the highest importance scores. `"random"` (the paper's ablation)
            selects k random channels: new ones in each forward pass in training, always the same ones in evaluation. It
            has no channel selector and no importance scores. `"first"` always selects the first k channels and scales
            by their importance scores.
        order: The selected channels enter the Conv-Block by descending `"score"` or by ascending channel `"index"`.
        scale: What is multiplied by the importance scores: the Conv-Block's `"output"` (the paper's) or its `"input"`
            (not in the paper). `"none"` scales nothing and has no channel selector; it is not accepted with
            `select="learned"`.
        fuse_to: The channels that the result is added to: the `"first"` k channels, the `"last"` k, or the
            `"original"` positions of the selected channels. `"all"` (not in the paper): the Conv-Block's last
            convolution writes all C channels. The result, zero at the start, is added to the MoD block's input, and
            then the host block's last activation is applied. The Conv-Block has no residual connection of its own,
            whatever `residual` is.
        candidates: The channel selector reads and selects from only the first `candidates * k` channels (rounded up to
            a multiple of 16, at most C). `None` (the paper's) uses all C channels.
        residual: Whether the Conv-Block keeps its own residual connection.
        identity_start: Whether a MoD block starts as the identity (not in the paper): its scores are multiplied by one
            learned gain for each of the k selected positions, and the gains start at zero. Use it for networks that
            keep pretrained weights.
        placement: Which blocks of a module become MoD blocks. `"alternate"`: the odd positions, counted from 0.
            `"all"`: every position except 0. A tuple of names: exactly these blocks. A callable
            `(module, position) -> bool`: the blocks for which it returns True; both arguments are counted from 0. The
            first block of a module always stays a standard block.

    Raises:
        ValueError: If a value is not accepted. The message lists the accepted values.

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
        if self.scale == "none" and self.select == "learned":
            raise ValueError("scale='none' gives select='learned' no gradient; it needs select='first'")
        if self.fuse_to == "all" and (self.identity_start or (self.scale == "output" and self.select != "random")):
            raise ValueError(
                "fuse_to='all' needs scale='input' or 'none' (except with select='random'), and identity_start=False"
            )
        for name in ("residual", "identity_start"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        is_names = isinstance(self.placement, tuple) and all(isinstance(name, str) for name in self.placement)
        if not (self.placement in ("alternate", "all") or is_names or callable(self.placement)):
            raise ValueError(
                "placement must be 'alternate', 'all', a tuple of block names or a callable "
                f"(module, position) -> bool, not {self.placement!r}"
            )

    @classmethod
    def narrow(cls, c: int = 4) -> "MoDConfig":
        """Return the settings of narrow blocks (ours).

        A narrow block always reads the first C // c channels and writes all C channels. It has no channel selector, so
        it does not select. In small networks on CIFAR-10 and CIFAR-100, it gains over the control. Scores gain nothing
        more, nor does selection in the network where it was measured (docs/train.md).

        Args:
            c: The divisor.

        Examples:
            >>> MoDConfig.narrow() == MoDConfig(c=4, select="first", scale="none", fuse_to="all")
            True
        """
        return cls(c=c, select="first", scale="none", fuse_to="all")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values. `from_dict` reads them.

        Raises:
            ValueError: If `placement` is a callable, which cannot be stored in a file. The configs of a converted
                network have the names of the chosen blocks instead.

        Examples:
            >>> MoDConfig.from_dict(MoDConfig(c=32).to_dict()) == MoDConfig(c=32)
            True
        """
        if callable(self.placement):
            raise ValueError(f"a callable placement cannot be stored; use block names instead of {self.placement!r}")
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MoDConfig":
        """Return the config that `to_dict` wrote. A missing field gets its default.

        Raises:
            ValueError: If a field is unknown or its value is not accepted.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(f"unknown MoDConfig field {', '.join(unknown)}; the fields are {', '.join(sorted(names))}")
        values = dict(values)
        if isinstance(values.get("placement"), list):
            values["placement"] = tuple(values["placement"])
        return cls(**values)


def _check_positive_int(name: str, value: object, alternative: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer{alternative}, not {value!r}")
