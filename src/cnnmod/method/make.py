"""make_mod_block: build and test the MoD block for one block of a network."""

import math

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block
from cnnmod.method.config import MoDConfig
from cnnmod.method.fit import fit_
from cnnmod.method.residual import adds_to_its_input, drop_residual_
from cnnmod.method.shrink import shrink
from cnnmod.method.trace import isolated
from cnnmod.method.widen import widened


def make_mod_block(block: Block, config: MoDConfig) -> MoDBlock:
    """Build the MoD block that can replace the block, and test it. `config.c` must be a number.

    Raises:
        ValueError: If the block cannot be a MoD block. The message states the reason.
    """
    if config.c is None:
        raise ValueError("c must be a number in the config, not None")
    channels = block.call.in_channels
    k = max(1, channels // config.c)
    shape = _shape_of(block, k)
    parameter = _check_weights(block.layer)
    try:
        conv_block = shrink(block.layer, min(config.c, channels))
        example = torch.empty(shape, device="meta", dtype=block.call.dtype)
        output = fit_(conv_block, block.layer, example, block.call.args, block.call.kwargs)
        if tuple(output.shape) != shape:
            raise ValueError(f"it maps {shape} to {tuple(output.shape)}")
        activation = None
        if config.fuse_to == "all":
            if block.call.args or block.call.kwargs:
                raise ValueError("fuse_to='all' needs a block that takes only a feature map")
            conv_block, activation = widened(conv_block, block.layer, channels, example)
        elif not config.residual:
            drop_residual_(conv_block, shape)
        _check_finite(conv_block, block, torch.empty(shape, device=parameter.device, dtype=block.call.dtype))
    except ValueError as error:
        raise ValueError(f"its Conv-Block with k = {k} does not work: {error}") from error
    device, dtype = parameter.device, parameter.dtype
    mod_block = MoDBlock(conv_block, channels, k, config, device, dtype, block.call.layout, activation)
    return mod_block.train(block.layer.training)


def can_replace_part(mod_block: MoDBlock, block: Block) -> bool:
    """Whether the MoD block can replace `block`, which is a part of a larger block.

    A MoD block adds to its input, so the part that it replaces must add to its input too.
    """
    try:
        if mod_block.config.fuse_to == "all":  # its Conv-Block has no residual connection
            return adds_to_its_input(block.layer, block.call.in_shape)
        return adds_to_its_input(mod_block.conv_block, _shape_of(block, mod_block.k))
    except ValueError:
        return False


def _shape_of(block: Block, k: int) -> tuple[int, ...]:
    """Return the shape of the block's input with k channels instead of C."""
    shape = list(block.call.in_shape)
    shape[block.call.layout.index("C")] = k
    return tuple(shape)


def _check_weights(block: nn.Module) -> nn.Parameter:
    """Return one of the block's parameters.

    Raises:
        ValueError: If the block has parametrizations, hooks or quantized weights, which `shrink` does not copy.
    """
    for name, layer in block.named_modules():
        subject = name or "it"
        if nn.utils.parametrize.is_parametrized(layer):
            raise ValueError(f"{subject} is parametrized (torch.nn.utils.parametrize); convert before parametrizing")
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            raise ValueError(f"{subject} has hooks, which the MoD block would lose; remove them or add them afterwards")
    parameters = list(block.parameters())
    if not parameters or not all(parameter.is_floating_point() for parameter in parameters):
        raise ValueError("it has quantized weights or no weights; convert before quantizing")
    return parameters[0]


def _check_finite(conv_block: nn.Module, block: Block, x: Tensor) -> None:
    """Run the Conv-Block once and raise `ValueError` if its output is not finite.

    A norm that divides by the standard deviation over channels returns NaN for k = 1.
    """
    arguments = (*block.call.args, *block.call.kwargs.values())
    if x.is_meta or any(isinstance(value, Tensor) for value in arguments):
        return
    x.copy_(torch.linspace(-1, 1, math.prod(x.shape), device=x.device).view(x.shape))
    with isolated(conv_block):
        try:
            output = conv_block(x, *block.call.args, **block.call.kwargs)
        except Exception as error:  # the forward of another library may raise anything
            raise ValueError(f"it runs on the meta device, but not on {x.device}: {error}") from error
    if not output.isfinite().all():
        raise ValueError("its output is not finite; a norm over so few channels can cause this")
