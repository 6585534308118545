"""shrink(block, c): the architecture's own block with every width divided by c."""

import copy
import math
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.initialize import constant_like, initialize_like

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@singledispatch
def shrink(block: nn.Module, c: int) -> nn.Module:
    """A copy of the block with every width n divided: max(1, n // c); its weights are drawn anew (paper, section 3.1).

    The copy computes what the architecture's own constructor builds at that width. Convolutions, linear layers and
    normalisations are known; any other module is copied with its children shrunken and its own vectors (layer
    scale, say) cut, values and all.
    A layer that needs more registers itself: `@cnnmod.shrink.register(MyLayer)` above a function
    `(layer, c) -> layer`; that serves it at any depth.

    Args:
        block: The host's block. It is not changed.
        c: The divisor, ≥ 1.

    Raises:
        ValueError: `block` is no module, c is no positive integer, or a module has parameters of unknown meaning.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(128, 256, 3), nn.BatchNorm2d(256), nn.ReLU())
        >>> shrink(block, 64)[0]
        Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    _check(block, c)
    narrow = _copy(block, {id(child): shrink(child, c) for child in block.children()})
    for name, parameter in block.named_parameters(recurse=False):
        if sum(size > 1 for size in parameter.shape) > 1:
            raise ValueError(
                f"shrink does not know {type(block).__name__}: which dimensions of its parameter {name!r} "
                f"{tuple(parameter.shape)} are widths? Register it with @cnnmod.shrink.register"
            )
        cut = parameter.detach()[tuple(slice(_divide(size, c)) for size in parameter.shape)]
        narrow.register_parameter(name, nn.Parameter(cut.clone()))
    return narrow


@shrink.register
def _(layer: _ConvNd, c: int) -> _ConvNd:
    _check(layer, c)
    narrow = _copy(layer)
    narrow.in_channels, narrow.out_channels = _divide(layer.in_channels, c), _divide(layer.out_channels, c)
    narrow.groups = _groups(layer.groups, c, narrow.in_channels, narrow.out_channels)
    first, second = narrow.out_channels, narrow.in_channels
    if layer.transposed:
        first, second = second, first
    shape = (first, second // narrow.groups, *layer.kernel_size)
    _renew(narrow, layer, shape, narrow.groups, layer.groups)
    return narrow


@shrink.register
def _(layer: nn.Linear, c: int) -> nn.Linear:
    _check(layer, c)
    narrow = _copy(layer)
    narrow.in_features, narrow.out_features = _divide(layer.in_features, c), _divide(layer.out_features, c)
    _renew(narrow, layer, (narrow.out_features, narrow.in_features))
    return narrow


@shrink.register
def _(layer: _NormBase, c: int) -> _NormBase:
    _check(layer, c)
    narrow = _copy(layer, {id(child): shrink(child, c) for child in layer.children()})  # timm's hold an activation
    narrow.num_features = _divide(layer.num_features, c)
    _renew_affine(narrow, layer, (narrow.num_features,))
    for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
        if (host := getattr(layer, name)) is not None:
            setattr(narrow, name, host.new_full((narrow.num_features,), value))
    if narrow.num_batches_tracked is not None:
        narrow.num_batches_tracked.zero_()
    return narrow


@shrink.register
def _(layer: nn.GroupNorm, c: int) -> nn.GroupNorm:
    _check(layer, c)
    narrow = _copy(layer, {id(child): shrink(child, c) for child in layer.children()})
    narrow.num_channels = _divide(layer.num_channels, c)
    narrow.num_groups = _groups(layer.num_groups, c, narrow.num_channels)
    _renew_affine(narrow, layer, (narrow.num_channels,))
    return narrow


@shrink.register
def _(layer: nn.LayerNorm, c: int) -> nn.LayerNorm:
    _check(layer, c)
    narrow = _copy(layer)
    narrow.normalized_shape = tuple(_divide(size, c) for size in layer.normalized_shape)
    _renew_affine(narrow, layer, narrow.normalized_shape)
    return narrow


def _check(block: object, c: object) -> None:
    if not isinstance(block, nn.Module):
        raise ValueError(f"shrink takes a module, not {type(block).__name__}")
    if not isinstance(c, int) or isinstance(c, bool) or c < 1:
        raise ValueError(f"c must be a positive integer, not {c!r}")


def _divide(width: int, c: int) -> int:
    return max(1, width // c)


def _groups(groups: int, c: int, *widths: int) -> int:
    """groups // c, or the next smaller number that divides all widths."""
    common = math.gcd(*widths)
    return next(n for n in range(min(_divide(groups, c), common), 0, -1) if common % n == 0)


def _copy(module: ModuleT, children: dict[int, nn.Module] | None = None) -> ModuleT:
    """A deep copy with the given children (by identity) in place of its own; parameters are shared, to be replaced
    by the caller, so that a wide block is never held twice."""
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    return copy.deepcopy(module, memo | (children or {}))


def _renew(
    narrow: nn.Module, host: _ConvNd | nn.Linear, shape: tuple[int, ...], groups: int = 1, host_groups: int = 1
) -> None:
    """Give a copied convolution or linear layer fresh weights of this shape, drawn by its host's law."""
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
