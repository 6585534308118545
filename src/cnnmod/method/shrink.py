"""shrink: copy a block with every width divided by c."""

import copy
import math
import re
from collections.abc import Sequence
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.initialize import constant_like, initialize_like

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ConvT = TypeVar("ConvT", bound=_ConvNd)
NormT = TypeVar("NormT", bound=_NormBase)
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
    narrow = _copy(block, {id(child): shrink(child, c) for child in block.children()})
    for name, value in vars(block).items():
        if _is_width(name, value):
            setattr(narrow, name, _divide_all(value, c))
        if "split" in name and _is_width(name, value) and isinstance(value, (tuple, list)):
            _match_split(narrow, block, name, divide(sum(value), c))
    if {"running_mean", "running_var"} <= block._buffers.keys():
        _reset_frozen_norm(narrow, block, c)
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
    narrow = _copy(layer)
    narrow.num_channels = divide(layer.num_channels, c)
    narrow.num_groups = fit_groups(layer.num_groups // c, narrow.num_channels)
    _renew_affine(narrow, layer, (narrow.num_channels,))
    return _shrink_rest(narrow, layer, c)


@shrink.register
def _(layer: nn.LayerNorm, c: int) -> nn.LayerNorm:
    _check(layer, c)
    narrow = _copy(layer)
    narrow.normalized_shape = tuple(divide(size, c) for size in layer.normalized_shape)
    _renew_affine(narrow, layer, narrow.normalized_shape)
    return _shrink_rest(narrow, layer, c)


def _shrink_rest(narrow: ModuleT, host: nn.Module, c: int) -> ModuleT:
    """Shrink the children and vectors that a subclass adds to the layer, for example the activation in timm's norms."""
    for name, child in host.named_children():
        setattr(narrow, name, shrink(child, c))
    _cut_vectors(narrow, host, c, skip=("weight", "bias"))
    return narrow


def with_channels(
    layer: ConvT, in_channels: int, out_channels: int, groups: int, init_like: _ConvNd | None = None
) -> ConvT:
    """Copy the convolution with these widths and new weights, initialized like `init_like` or the layer itself."""
    narrow = _copy(layer)
    narrow.in_channels, narrow.out_channels, narrow.groups = in_channels, out_channels, groups
    first, second = (in_channels, out_channels) if layer.transposed else (out_channels, in_channels)
    init_like = layer if init_like is None else init_like
    _renew(narrow, init_like, (first, second // groups, *layer.kernel_size), groups, init_like.groups)
    if isinstance(scale := getattr(layer, "scale", None), float):  # timm's ScaledStdConv2d: gamma / sqrt(fan-in)
        narrow.scale = scale * math.sqrt(layer.weight[0].numel() / narrow.weight[0].numel())  # pyright: ignore[reportArgumentType]  a float
    return narrow


def with_features(
    layer: nn.Linear, in_features: int, out_features: int, init_like: nn.Linear | None = None
) -> nn.Linear:
    """Copy the linear layer with these widths and new weights, initialized like `init_like` or the layer itself."""
    narrow = _copy(layer)
    narrow.in_features, narrow.out_features = in_features, out_features
    _renew(narrow, layer if init_like is None else init_like, (out_features, in_features))
    return narrow


def with_norm_features(layer: NormT, num_features: int) -> NormT:
    """Copy the batch or instance norm with this width and reset statistics."""
    narrow = _copy(layer)
    narrow.num_features = num_features
    _renew_affine(narrow, layer, (num_features,))
    _reset_statistics(narrow, layer, num_features)
    if narrow.num_batches_tracked is not None:
        narrow.num_batches_tracked.zero_()
    return narrow


def divide(width: int, c: int) -> int:
    """Return width // c, at least 1."""
    return max(1, width // c)


def fit_groups(groups: int, *widths: int) -> int:
    """Return the largest number of groups from 1 to `groups` that divides all widths."""
    common = math.gcd(*widths)
    return next(n for n in range(max(1, min(groups, common)), 0, -1) if common % n == 0)


def _is_width(name: str, value: object) -> bool:
    """Whether the attribute has the name of a width and holds one or several integers."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return bool(_WIDTH_NAME.search(name) and values) and all(type(number) is int for number in values)


def _divide_all(value: int | Sequence[int], c: int) -> int | Sequence[int]:
    """Divide each number of at least 8.

    Smaller numbers are axes or counts, such as `spatial_dim = (2, 3)` or the 3 gates in the last part of a split.
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
        # A dimension below 8 is a count, such as 3 weights for 3 branches.
        shape = [divide(size, c) if size >= 8 else size for size in parameter.shape]
        first_elements = parameter.detach()[tuple(map(slice, shape))]
        narrow.register_parameter(name, nn.Parameter(first_elements.clone()))


def _reset_frozen_norm(narrow: nn.Module, host: nn.Module, c: int) -> None:
    """Reset a norm whose weights are buffers, such as torchvision's FrozenBatchNorm2d, to the identity."""
    width = divide(host.get_buffer("running_mean").numel(), c)
    _reset_statistics(narrow, host, width)
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        if isinstance(buffer := host._buffers.get(name), Tensor):
            setattr(narrow, name, buffer.new_full((width,), value))


def _reset_statistics(narrow: nn.Module, host: nn.Module, width: int) -> None:
    for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
        if isinstance(buffer := host._buffers.get(name), Tensor):
            setattr(narrow, name, buffer.new_full((width,), value))


def _check(block: object, c: object) -> None:
    if not isinstance(block, nn.Module):
        raise ValueError(f"block must be a torch.nn.Module, not {type(block).__name__}")
    if not isinstance(c, int) or isinstance(c, bool) or c < 1:
        raise ValueError(f"c must be a positive integer, not {c!r}")


def _copy(module: ModuleT, children: dict[int, nn.Module] | None = None) -> ModuleT:
    """Deep-copy the module. `children` maps the id of a child to the module that replaces it in the copy.

    The copy shares the module's parameters until the caller replaces them. Wide weights are therefore never copied.
    """
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    try:
        return copy.deepcopy(module, memo | (children or {}))
    except Exception as error:  # the objects of other libraries may raise anything
        raise ValueError(f"{type(module).__name__} cannot be copied: {error}") from error


def _renew(
    narrow: nn.Module, host: _ConvNd | nn.Linear, shape: tuple[int, ...], groups: int = 1, host_groups: int = 1
) -> None:
    """Give a copied convolution or linear layer new weights of this shape, from the host's distribution."""
    narrow.weight = _fresh(host.weight, shape)
    initialize_like(narrow.weight, groups, host.weight, host_groups)
    if host.bias is not None:
        narrow.bias = _fresh(host.bias, (shape[1] * groups if getattr(host, "transposed", False) else shape[0],))
        constant_like(narrow.bias, host.bias, otherwise=0.0)


def _renew_affine(narrow: nn.Module, host: nn.Module, shape: tuple[int, ...]) -> None:
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        if (parameter := getattr(host, name)) is not None:
            setattr(narrow, name, _fresh(parameter, shape))
            constant_like(getattr(narrow, name), parameter, otherwise=value)


def _fresh(like: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
