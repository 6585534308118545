"""shrink: copy a block with every width divided by c."""

import re
from collections.abc import Sequence
from functools import singledispatch
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.resize import (
    copy_module,
    fit_groups,
    renew_affine,
    reset_statistics,
    with_channels,
    with_features,
    with_norm_features,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_WIDTH_NAME = re.compile(r"(^|_)(p?dims?|chs|chans?|channels|features|planes|width|shape|splits?)(_|\d|$)")


@singledispatch
def shrink(block: nn.Module, c: int) -> nn.Module:
    """Copy the block with every width n replaced by max(1, n // c) and with new weights (paper, section 3.1).

    The copy has the layers that the architecture's own constructor would build at that width. Convolutions (1D to 3D),
    linear layers and norms have their own rules. Any other module is copied, and its children are shrunk. Its vectors
    (for example a layer scale) keep only their first elements. Its integer attributes that are named like widths
    (`dim`, `out_chs`) are divided.

    To add a rule for your own layer, decorate a function `(layer, c) -> layer` with
    `@cnnmod.shrink.register(MyLayer)`. The rule applies at any depth.

    Args:
        block: The host's block. It is not changed.
        c: The divisor, ≥ 1.

    Raises:
        ValueError: If `block` is not a module, c is not a positive integer, or a module has a parameter whose widths
            are unknown.

    Examples:
        >>> block = nn.Sequential(nn.Conv2d(128, 256, 3), nn.BatchNorm2d(256), nn.ReLU())
        >>> shrink(block, 64)[0]
        Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    _check(block, c)
    narrow = copy_module(block, {id(child): shrink(child, c) for child in block.children()})
    for name, value in vars(block).items():
        if _is_width(name, value):
            setattr(narrow, name, _divide_all(value, c))
        if "split" in name and _is_width(name, value) and isinstance(value, (tuple, list)):
            _match_split(narrow, block, name, divide(sum(value), c))
    if {"running_mean", "running_var"} <= block._buffers.keys():  # such as torchvision's FrozenBatchNorm2d
        reset_statistics(narrow, block, divide(block.get_buffer("running_mean").numel(), c))
    _cut_vectors(narrow, block, c)
    return narrow


@shrink.register
def _(layer: _ConvNd, c: int) -> _ConvNd:
    _check(layer, c)
    in_channels, out_channels = divide(layer.in_channels, c), divide(layer.out_channels, c)
    narrow = with_channels(layer, in_channels, out_channels, fit_groups(layer.groups // c, in_channels, out_channels))
    return _shrink_rest(narrow, layer, c)


@shrink.register
def _(layer: nn.Linear, c: int) -> nn.Linear:
    _check(layer, c)
    return _shrink_rest(with_features(layer, divide(layer.in_features, c), divide(layer.out_features, c)), layer, c)


@shrink.register
def _(layer: _NormBase, c: int) -> _NormBase:
    _check(layer, c)
    return _shrink_rest(with_norm_features(layer, divide(layer.num_features, c)), layer, c)


@shrink.register
def _(layer: nn.GroupNorm, c: int) -> nn.GroupNorm:
    _check(layer, c)
    narrow = copy_module(layer)
    narrow.num_channels = divide(layer.num_channels, c)
    narrow.num_groups = fit_groups(layer.num_groups // c, narrow.num_channels)
    renew_affine(narrow, layer, (narrow.num_channels,))
    return _shrink_rest(narrow, layer, c)


@shrink.register
def _(layer: nn.LayerNorm, c: int) -> nn.LayerNorm:
    _check(layer, c)
    narrow = copy_module(layer)
    narrow.normalized_shape = tuple(divide(size, c) for size in layer.normalized_shape)
    renew_affine(narrow, layer, narrow.normalized_shape)
    return _shrink_rest(narrow, layer, c)


def _shrink_rest(narrow: ModuleT, host: nn.Module, c: int) -> ModuleT:
    """Shrink the children and vectors that a subclass adds to the layer, for example the activation in timm's norms."""
    for name, child in host.named_children():
        setattr(narrow, name, shrink(child, c))
    _cut_vectors(narrow, host, c, skip=("weight", "bias"))
    return narrow


def divide(width: int, c: int) -> int:
    """Return width // c, at least 1."""
    return max(1, width // c)


def _is_width(name: str, value: object) -> bool:
    """Whether the attribute has the name of a width and holds one or several integers."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return bool(_WIDTH_NAME.search(name) and values) and all(type(number) is int for number in values)


def _divide_all(value: int | Sequence[int], c: int) -> int | Sequence[int]:
    """Divide each number of at least 8.

    Smaller numbers are axes or counts, such as `spatial_dim = (2, 3)`, 3 weights for 3 branches, or the 3 gates in the
    last part of a split.
    """
    if isinstance(value, int):
        return divide(value, c) if value >= 8 else value
    return type(value)(divide(number, c) if number >= 8 else number for number in value)  # pyright: ignore[reportCallIssue]  a list or tuple


def _match_split(narrow: nn.Module, host: nn.Module, name: str, width: int) -> None:
    """Make the sum of the parts of a split equal to the width that is split.

    If a child layer computes the tensor that is split, its output width is set to the sum of the parts. Otherwise the
    rounding difference is added to the first part.
    """
    parts = getattr(narrow, name)
    for child_name, layer in host.named_children():
        shrunk = getattr(narrow, child_name)
        if isinstance(layer, _ConvNd) and layer.out_channels == sum(getattr(host, name)) and layer.groups == 1:
            setattr(narrow, child_name, with_channels(layer, shrunk.in_channels, sum(parts), 1))
            return
        if isinstance(layer, nn.Linear) and layer.out_features == sum(getattr(host, name)):
            setattr(narrow, child_name, with_features(layer, shrunk.in_features, sum(parts)))
            return
    setattr(narrow, name, type(parts)([max(1, parts[0] + width - sum(parts)), *parts[1:]]))


def _cut_vectors(narrow: nn.Module, host: nn.Module, c: int, skip: tuple[str, ...] = ()) -> None:
    """Keep the first elements of the parameters that the host itself has, except those named in `skip`."""
    for name, parameter in host.named_parameters(recurse=False):
        if name in skip:
            continue
        if sum(size > 1 for size in parameter.shape) > 1:
            raise ValueError(
                f"shrink has no rule for {type(host).__name__} and cannot tell which dimensions of its parameter "
                f"{name!r} {tuple(parameter.shape)} are widths; register one with @cnnmod.shrink.register"
            )
        shape = [_divide_all(size, c) for size in parameter.shape]
        first_elements = parameter.detach()[tuple(map(slice, shape))]
        narrow.register_parameter(name, nn.Parameter(first_elements.clone()))


def _check(block: object, c: object) -> None:
    if not isinstance(block, nn.Module):
        raise ValueError(f"block must be a torch.nn.Module, not {type(block).__name__}")
    if not isinstance(c, int) or isinstance(c, bool) or c < 1:
        raise ValueError(f"c must be a positive integer, not {c!r}")
