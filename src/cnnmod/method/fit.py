"""fit_: rebuild layers whose input has an unexpected width after shrinking.

Each width is rounded down, so sums of widths can be wrong. For example, three branches with 20, 20 and 24 channels are
concatenated to 64. With c = 16, each branch has 1 channel, so the concatenation has 3 channels, but 64 // 16 = 4.
"""

import logging
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.calls import width_of
from cnnmod.method.passes import DoesNotRunError, Pass
from cnnmod.method.resize import fit_groups, with_channels, with_features, with_norm_features
from cnnmod.method.shrink import shrink
from cnnmod.method.trace import trace

# Layers with other rules are not rebuilt.
_RULES = {shrink.dispatch(layer) for layer in (_ConvNd, nn.Linear, _NormBase)}


def fit_(
    narrow: nn.Module,
    host: nn.Module,
    example: Tensor,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Rebuild each layer inside `narrow` whose input has an unexpected number of channels, in place.

    Args:
        narrow: The result of `shrink` on the host.
        host: The original block. New weights are drawn from the distributions of its layers.
        example: (N, k, H, W) on the meta device.
        args, kwargs: The other arguments of the block.

    Returns:
        The output of the fitted block for the example.

    Raises:
        ValueError: If the block does not run on the example for another reason.
    """
    hosts = dict(host.named_modules())
    seen: set[_Misfit] = set()
    while True:
        output, misfit = trace(narrow, partial(_try, narrow, seen), example, args, kwargs, logging.DEBUG)
        if misfit is None:
            return output
        seen.add(misfit)
        layer = narrow.get_submodule(misfit.name)
        narrow.set_submodule(misfit.name, _with_input(layer, hosts.get(misfit.name, layer), misfit.width))


class _Misfit(NamedTuple):
    """A layer whose input has `width` channels, which is not the number that the layer expects."""

    name: str
    width: int


def _try(narrow: nn.Module, seen: set[_Misfit], run: Pass) -> tuple[Any, _Misfit | None]:
    """Return the block's output. If the block does not run, return the first layer that can be rebuilt instead."""
    misfits: list[_Misfit] = []
    for name, layer in narrow.named_modules():
        if name and shrink.dispatch(type(layer)) in _RULES:
            layer.register_forward_pre_hook(_record_misfit(misfits, name, layer))  # `trace` removes it after the pass
    try:
        return run(), None
    except DoesNotRunError:
        if not misfits or misfits[0] in seen or misfits[0].width < 1:
            raise
        return None, misfits[0]


def _record_misfit(misfits: list[_Misfit], name: str, layer: nn.Module) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        width = args[0].shape[-1 if isinstance(layer, nn.Linear) else 1]
        if width != width_of(layer):
            misfits.append(_Misfit(name, width))

    return hook


def _with_input(narrow: nn.Module, host: nn.Module, width: int) -> nn.Module:
    """Copy the layer with another input width."""
    if isinstance(narrow, _ConvNd):
        init_like = host if isinstance(host, _ConvNd) else narrow
        if init_like.groups == init_like.in_channels > 1:
            return with_channels(
                narrow, width, width * (init_like.out_channels // init_like.in_channels), width, init_like
            )
        groups = fit_groups(narrow.groups, width, narrow.out_channels)
        return with_channels(narrow, width, narrow.out_channels, groups, init_like)
    if isinstance(narrow, nn.Linear):
        return with_features(narrow, width, narrow.out_features, host if isinstance(host, nn.Linear) else narrow)
    assert isinstance(narrow, _NormBase)
    return with_norm_features(narrow, width)
