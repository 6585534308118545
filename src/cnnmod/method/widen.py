"""widened: a Conv-Block whose last convolution writes all channels, for `MoDConfig(fuse_to="all")`."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.fit import fit_
from cnnmod.method.passes import Pass
from cnnmod.method.resize import with_channels
from cnnmod.method.trace import trace

_PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d)
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def widened(conv_block: nn.Module, host: nn.Module, channels: int, example: Tensor) -> tuple[nn.Sequential, nn.Module]:
    """Return the branch of a Conv-Block with C output channels, and the last activation.

    The Conv-Block must compute activation(x + branch(x)) or activation(branch(x)), where the branch is a chain of the
    block's children that ends with a convolution and optionally a norm. This is tested with random weights. The new
    Conv-Block is the chain. Its last convolution has C output channels, and its result is zero at the start. The MoD
    block adds this result to its own input, and then applies the activation.

    Args:
        conv_block: The result of `shrink` and `fit_` on the host.
        host: The original block. New weights are drawn from the distribution of its last convolution.
        channels: C.
        example: (N, k, H, W) on the meta device.

    Raises:
        ValueError: If the Conv-Block computes something else, or its last convolution has groups.
    """
    names = [name for name in trace(conv_block, _calls, example, level=logging.DEBUG) if "." not in name]
    activation: nn.Module = nn.Identity()
    if names and _is_activation(conv_block.get_submodule(names[-1])):
        activation = copy.deepcopy(conv_block.get_submodule(names.pop()))
    if not _is_chain(conv_block, names, activation, example.shape):
        raise ValueError(
            "fuse_to='all' needs a block that is a chain of layers with at most a residual connection around it; this "
            "one has, for example, branches or a layer scale"
        )
    branch = nn.Sequential()
    for number, name in enumerate(names):  # a layer that is called twice is copied twice
        copies = names[:number].count(name)
        branch.add_module(f"{name}_{copies + 1}" if copies else name, copy.deepcopy(conv_block.get_submodule(name)))
    _widen_last_(branch, host, channels, example)
    return branch, activation


def _widen_last_(branch: nn.Sequential, host: nn.Module, channels: int, example: Tensor) -> None:
    """Give the last convolution C output channels, and let the result start at zero. Only a norm may follow it."""
    layers = {name: branch.get_submodule(name) for name in trace(branch, _calls, example, level=logging.DEBUG)}
    ends = [name for name, layer in layers.items() if not (_has_parts(layer) or isinstance(layer, _PASS_THROUGH))]
    norms = [name for name in ends[-1:] if isinstance(layers[name], _NORMS)]
    name = next(iter(ends[-1 - len(norms) :]), "")
    conv, original = layers.get(name), dict(host.named_modules()).get(name)
    if not isinstance(conv, _ConvNd) or conv.groups > 1:
        raise ValueError("fuse_to='all' needs a last convolution without groups, followed by at most a norm")
    like = original if isinstance(original, _ConvNd) else conv
    branch.set_submodule(name, with_channels(conv, conv.in_channels, channels, 1, like))
    fit_(branch, host, example)
    for parameter in branch.get_submodule([name, *norms][-1]).parameters():
        nn.init.zeros_(parameter)


def _calls(run: Pass) -> list[str]:
    """Return the names of the layers in the order of their calls."""
    called: list[str] = []

    def record(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if name and not isinstance(layer, nn.Identity):
            called.append(name)

    run(record)
    return called


def _has_parts(layer: nn.Module) -> bool:
    """Whether the layer has children that compute something. The norms of timm have two that may be the identity."""
    return not all(isinstance(child, nn.Identity) for child in layer.children())


def _is_activation(layer: nn.Module) -> bool:
    return not (isinstance(layer, _PASS_THROUGH) or list(layer.children()) or list(layer.parameters()))


def _is_chain(conv_block: nn.Module, names: Sequence[str], activation: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the block computes what its layers compute one after the other, with random weights on the CPU."""
    tested = copy.deepcopy(conv_block).to_empty(device="cpu").float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in tested.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator).abs() + 0.1)
        for parameter in tested.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        x_NKHW = torch.randn(*shape, generator=generator)
        try:
            expected, y_NKHW = tested(x_NKHW.clone()), x_NKHW.clone()
            for name in names:
                y_NKHW = tested.get_submodule(name)(y_NKHW)
            results = [activation(y_NKHW.clone()), activation(x_NKHW + y_NKHW)]
        except Exception:  # the forward of another library may raise anything
            return False
    return any(result.shape == expected.shape and torch.allclose(result, expected) for result in results)
