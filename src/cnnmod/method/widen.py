"""widen_: make a Conv-Block write all C channels, for `MoDConfig(fuse_to="all")`."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.fit import fit_
from cnnmod.method.passes import DoesNotRunError, Pass
from cnnmod.method.residual import drop_residual_
from cnnmod.method.resize import with_channels, with_features
from cnnmod.method.trace import trace

_PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d)


def widen_(
    conv_block: nn.Module,
    host: nn.Module,
    channels: int,
    example: Tensor,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Give the last convolution of a Conv-Block C output channels, in place. At the start, the result is zero.

    The residual connection and the last activation are removed from the Conv-Block. The MoD block adds the result to
    its own input and then applies the activation, as the host block does.

    Args:
        conv_block: The result of `shrink` and `fit_` on the host.
        host: The original block. New weights are drawn from the distributions of its layers.
        channels: C.
        example: (N, k, H, W) on the meta device.
        args, kwargs: The other arguments of the block.

    Returns:
        The last activation, or the identity.

    Raises:
        ValueError: If the residual connection has no known switch, the block uses its last activation more than once,
            or its last convolution cannot have C output channels.
    """
    drop_residual_(conv_block, example.shape)
    order, last_activation = trace(conv_block, _record, example, args, kwargs, logging.DEBUG)
    activation: nn.Module = nn.Identity()
    if last_activation is not None:
        if order.count(last_activation) > 1:
            raise ValueError(
                f"fuse_to='all' needs a last activation that is used once, but {last_activation!r} is used "
                f"{order.count(last_activation)} times"
            )
        activation = conv_block.get_submodule(last_activation)
        conv_block.set_submodule(last_activation, nn.Identity())
    name = next(name for name in reversed(order) if isinstance(conv_block.get_submodule(name), _ConvNd | nn.Linear))
    conv_block.set_submodule(name, _with_outputs(conv_block.get_submodule(name), host.get_submodule(name), channels))
    try:
        fit_(conv_block, host, example, args, kwargs)
    except DoesNotRunError as error:
        raise ValueError(
            "fuse_to='all' is not supported for this block: a layer after its last convolution, such as "
            "squeeze-and-excitation or a layer scale, cannot have C channels"
        ) from error
    written = [conv_block.get_submodule(name) for name in order[order.index(name) :]]
    last = [layer for layer in written if isinstance(getattr(layer, "weight", None), Tensor)][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return activation


def _with_outputs(layer: nn.Module, host: nn.Module, channels: int) -> nn.Module:
    """Copy the layer with another output width."""
    if isinstance(layer, nn.Linear):
        return with_features(layer, layer.in_features, channels, host if isinstance(host, nn.Linear) else layer)
    assert isinstance(layer, _ConvNd)
    if layer.groups > 1:
        raise ValueError("fuse_to='all' is not supported for this block: its last convolution has groups")
    return with_channels(layer, layer.in_channels, channels, 1, host if isinstance(host, _ConvNd) else layer)


def _record(run: Pass) -> tuple[list[str], str | None]:
    """Return the names of the layers in the order of their calls, and the name of the last activation or `None`.

    The last activation is the layer whose output is the block's output.
    """
    order: list[str] = []
    activations: list[tuple[str, Tensor, int]] = []

    def record(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if list(layer.children()):
            return
        order.append(name)
        if not (isinstance(layer, _PASS_THROUGH) or list(layer.parameters())) and isinstance(output, Tensor):
            activations.append((name, output, output._version))

    result = run(record)
    # A larger version means that the tensor was changed in place after the layer, as in `x = act(x); x += shortcut`.
    last = [name for name, output, version in activations if output is result and version == result._version]
    return order, last[-1] if last else None
