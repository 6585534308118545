"""Copy a layer with other widths and with new weights from the distribution of its initial weights."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.initialize import constant_like, initialize_like

ModuleT = TypeVar("ModuleT", bound=nn.Module)
ConvT = TypeVar("ConvT", bound=_ConvNd)
NormT = TypeVar("NormT", bound=_NormBase)


def with_channels(
    layer: ConvT, in_channels: int, out_channels: int, groups: int, init_like: _ConvNd | None = None
) -> ConvT:
    """Copy the convolution with these widths and new weights, initialized like `init_like` or the layer itself."""
    narrow = copy_module(layer)
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
    narrow = copy_module(layer)
    narrow.in_features, narrow.out_features = in_features, out_features
    _renew(narrow, layer if init_like is None else init_like, (out_features, in_features))
    return narrow


def with_norm_features(layer: NormT, num_features: int) -> NormT:
    """Copy the batch or instance norm with this width and reset statistics."""
    narrow = copy_module(layer)
    narrow.num_features = num_features
    renew_affine(narrow, layer, (num_features,))
    reset_statistics(narrow, layer, num_features)
    if narrow.num_batches_tracked is not None:
        narrow.num_batches_tracked.zero_()
    return narrow


def fit_groups(groups: int, *widths: int) -> int:
    """Return the largest number of groups from 1 to `groups` that divides all widths."""
    common = math.gcd(*widths)
    return next(n for n in range(max(1, min(groups, common)), 0, -1) if common % n == 0)


def copy_module(module: ModuleT, children: dict[int, nn.Module] | None = None) -> ModuleT:
    """Deep-copy the module. `children` maps the id of a child to the module that replaces it in the copy.

    The copy shares the module's parameters until the caller replaces them. Wide weights are therefore never copied.
    """
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    try:
        return copy.deepcopy(module, memo | (children or {}))
    except Exception as error:  # the objects of other libraries may raise anything
        raise ValueError(f"{type(module).__name__} cannot be copied: {error}") from error


def reset_statistics(narrow: nn.Module, host: nn.Module, width: int) -> None:
    """Give a copied norm the statistics of a new norm. The weights of a frozen norm are buffers and are reset too."""
    for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0)):
        if isinstance(buffer := host._buffers.get(name), Tensor):
            setattr(narrow, name, buffer.new_full((width,), value))


def _renew(
    narrow: nn.Module, host: _ConvNd | nn.Linear, shape: tuple[int, ...], groups: int = 1, host_groups: int = 1
) -> None:
    """Give a copied convolution or linear layer new weights of this shape, from the host's distribution."""
    narrow.weight = _fresh(host.weight, shape)
    initialize_like(narrow.weight, groups, host.weight, host_groups)
    if host.bias is not None:
        narrow.bias = _fresh(host.bias, (shape[1] * groups if getattr(host, "transposed", False) else shape[0],))
        constant_like(narrow.bias, host.bias, otherwise=0.0)


def renew_affine(narrow: nn.Module, host: nn.Module, shape: tuple[int, ...]) -> None:
    """Give a copied norm new weights of this shape."""
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        if (parameter := getattr(host, name)) is not None:
            setattr(narrow, name, _fresh(parameter, shape))
            constant_like(getattr(narrow, name), parameter, otherwise=value)


def _fresh(like: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
