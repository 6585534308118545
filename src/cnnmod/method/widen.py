"""widened: a Conv-Block whose last convolution writes all channels, for `MoDConfig(fuse_to="all")`."""

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cnnmod.method.fit import fit_
from cnnmod.method.passes import DoesNotRunError, Pass
from cnnmod.method.resize import with_channels
from cnnmod.method.trace import trace

_ACTIVATIONS = (nn.ReLU, nn.ReLU6)  # the input of a MoD block is their output, so a second one changes nothing
_NORMS = (_NormBase, nn.GroupNorm)
_DROPS = {"Dropout", "Dropout2d", "DropPath", "StochasticDepth"}  # the identity in evaluation
_NOT_A_CHAIN = (
    "fuse_to='all' needs a block whose output is that of its layers, called one after the other, plus at most its "
    "input, and then a ReLU; this block has, for example, branches, a layer scale, or a function between its layers"
)
_NO_LAST = (
    "fuse_to='all' needs a block whose last layer is a convolution without groups, followed by at most a norm with a "
    "weight and by dropout"
)


def widened(conv_block: nn.Module, host: nn.Module, channels: int, example: Tensor) -> tuple[nn.Sequential, nn.Module]:
    """Return the branch of a Conv-Block with C output channels, and the last activation.

    The Conv-Block must compute activation(x + branch(x)) or activation(branch(x)), where the branch is a chain of the
    block's children that ends with a convolution and optionally a norm. This is tested with random weights, in
    training and in evaluation mode. The new Conv-Block is the chain. Its last convolution has C output channels, and
    its result is zero at the start. The MoD block adds this result to its own input, and then applies the activation.

    Args:
        conv_block: The result of `shrink` and `fit_` on the host.
        host: The original block. New weights are drawn from the distribution of its last convolution.
        channels: C.
        example: (N, k, H, W) on the meta device.

    Raises:
        ValueError: If the Conv-Block computes something else, or does not end with a convolution and optionally a norm.
    """
    names = [name for name in _trace_calls(conv_block, example) if "." not in name]
    activation: nn.Module = nn.Identity()
    if names and isinstance(conv_block.get_submodule(names[-1]), _ACTIVATIONS):
        activation = copy.deepcopy(conv_block.get_submodule(names.pop()))
    if not _is_chain(conv_block, names, activation, example.shape):
        raise ValueError(_NOT_A_CHAIN)
    branch = nn.Sequential()
    for name in names:  # an activation that is called twice is copied twice
        free = name
        while hasattr(branch, free):
            free += "_"
        branch.add_module(free, copy.deepcopy(conv_block.get_submodule(name)))
    _widen_last_(branch, host, channels, example)
    return branch, activation


def _widen_last_(branch: nn.Sequential, host: nn.Module, channels: int, example: Tensor) -> None:
    """Give the last convolution C output channels, and let the result of the branch start at zero."""
    calls = _trace_calls(branch, example)
    layers = {name: branch.get_submodule(name) for name in calls}
    ends = [name for name in calls if not (_has_parts(layers[name]) or type(layers[name]).__name__ in _DROPS)]
    norms = [name for name in ends[-1:] if isinstance(layers[name], _NORMS)]
    name = next(iter(ends[-1 - len(norms) :]), "")
    conv, last = layers.get(name), [name, *norms][-1]
    if not isinstance(conv, _ConvNd) or conv.groups > 1 or calls.count(name) > 1:
        raise ValueError(_NO_LAST)
    if not isinstance(layers[last].weight, Tensor) or not _ends_with(branch, last, example.shape):
        raise ValueError(_NO_LAST)
    original = dict(host.named_modules()).get(name)
    like = original if isinstance(original, _ConvNd) else conv
    branch.set_submodule(name, with_channels(conv, conv.in_channels, channels, 1, like))
    try:
        fit_(branch, host, example)
    except DoesNotRunError as error:
        raise ValueError(_NO_LAST) from error
    for parameter in branch.get_submodule(last).parameters():
        nn.init.zeros_(parameter)


def _trace_calls(block: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the layers in the order of their calls, without layers that do nothing."""

    def calls(run: Pass) -> list[str]:
        called: list[str] = []

        def record(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            is_empty = isinstance(layer, nn.Sequential) and not len(layer)
            if name and not isinstance(layer, nn.Identity) and not is_empty:
                called.append(name)

        run(record)
        return called

    return trace(block, calls, example, level=logging.DEBUG)


def _has_parts(layer: nn.Module) -> bool:
    """Whether the layer has children that compute something. The norms of timm have two that may be the identity."""
    return not all(isinstance(child, nn.Identity) for child in layer.children())


def _is_chain(conv_block: nn.Module, names: Sequence[str], activation: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the block computes what its layers compute one after the other, in both modes."""
    layers = [conv_block.get_submodule(name) for name in names]
    with_weights = [layer for layer in layers if [*layer.parameters(), *layer.buffers()]]
    if not layers or len({*map(id, with_weights)}) < len(with_weights):  # a copy would not share its weights
        return False
    tested, x_NKHW = _randomized(conv_block, shape)
    results: list[list[Tensor]] = []
    for training in (False, True):
        tested.train(training)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # torch.manual_seed also changes GPUs
                expected, y_NKHW = tested(x_NKHW.clone()), x_NKHW.clone()
                torch.default_generator.manual_seed(0)
                for name in names:
                    y_NKHW = tested.get_submodule(name)(y_NKHW)
                results.append([expected, activation(y_NKHW.clone()), activation(x_NKHW + y_NKHW)])
        except Exception:  # the forward of another library may raise anything
            return False
    return any(all(_is_equal(result[0], result[kind]) for result in results) for kind in (1, 2))


def _ends_with(branch: nn.Sequential, name: str, shape: Sequence[int]) -> bool:
    """Whether the output of the branch is that of a layer, in evaluation mode: no function follows the layer."""
    tested, x_NKHW = _randomized(branch, shape)
    outputs: list[Tensor] = []
    handle = tested.get_submodule(name).register_forward_hook(
        lambda layer, args, output: outputs.append(output.clone())
    )
    with torch.no_grad():
        result = tested.eval()(x_NKHW)
    handle.remove()
    return _is_equal(result, outputs[-1])


def _randomized(block: nn.Module, shape: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """Return a copy of a block in float64 on the CPU, with random weights, and two random images."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu") / math.sqrt(fan_in)

    tested = copy.deepcopy(block)
    buffers = {name: buffer.detach().cpu() for name, buffer in tested.named_buffers() if not buffer.is_meta}
    tested = tested.to_empty(device="cpu").double()
    with torch.no_grad():
        for parameter in tested.parameters():
            parameter.copy_(draw(parameter.shape))
        for name, buffer in tested.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
            else:  # on the meta device; positive, as a variance is
                buffer.copy_(draw(buffer.shape).abs() + 0.1)
    return tested, draw((2, *shape[1:])) * math.sqrt(math.prod(shape[1:]))


def _is_equal(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return bool(one.isfinite().all()) and torch.allclose(one, other)
