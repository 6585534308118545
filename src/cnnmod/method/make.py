"""make_mod_block: the MoD block for a block of a network, tried before it is put in place."""

import copy
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block
from cnnmod.method.config import MoDConfig
from cnnmod.method.fit import fit_
from cnnmod.method.passes import Run
from cnnmod.method.residual import adds_to_its_input, drop_residual_
from cnnmod.method.shrink import shrink
from cnnmod.method.trace import at_rest, trace

_PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d)


def make_mod_block(block: Block, config: MoDConfig) -> MoDBlock:
    """The MoD block that can take the block's place; `config.c` is a number.

    Raises:
        ValueError: There is none, with the reason.
    """
    if config.c is None:
        raise ValueError("its config has no c")
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
        if not config.residual:
            drop_residual_(conv_block, shape)
        _check_finite(conv_block, block, torch.empty(shape, device=parameter.device, dtype=block.call.dtype))
    except ValueError as error:
        raise ValueError(f"its Conv-Block of {k} channels does not work: {error}") from error
    activation = None
    if config.fuse_to == "all":
        further = block.call.args, block.call.kwargs
        activation = copy.deepcopy(trace(conv_block, _last_activation, example, *further, logging.DEBUG))
    made = MoDBlock(conv_block, channels, k, config, parameter.device, parameter.dtype, block.call.layout, activation)
    return made.train(block.layer.training)


def may_stand_inside(made: MoDBlock, block: Block) -> bool:
    """Whether it may replace a part of a larger block: a MoD block passes its input on, so the part must do so too."""
    try:
        return adds_to_its_input(made.conv_block, _shape_of(block, made.k))
    except ValueError:
        return False


def _last_activation(run: Run) -> nn.Module | None:
    """The activation whose output is the block's own, if there is one."""
    called: list[tuple[nn.Module, Tensor, int]] = []

    def note(_: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        is_activation = not (isinstance(layer, _PASS_ON) or list(layer.children()) or list(layer.parameters()))
        if is_activation and isinstance(output, Tensor):
            called.append((layer, output, output._version))

    result = run(note)
    # the version tells what was changed in place after the layer, as by `x = act(x); x += shortcut`
    last = [layer for layer, output, version in called if output is result and version == result._version]
    return last[-1] if last else None


def _shape_of(block: Block, k: int) -> tuple[int, ...]:
    """The block's input with k channels."""
    shape = list(block.call.in_shape)
    shape[block.call.layout.index("C")] = k
    return tuple(shape)


def _check_weights(block: nn.Module) -> nn.Parameter:
    """One of the block's parameters; `ValueError` for a block whose layers are more than what shrink copies."""
    for name, layer in block.named_modules():
        where = name or "it"
        if nn.utils.parametrize.is_parametrized(layer):
            raise ValueError(f"{where} is parametrized (torch.nn.utils.parametrize); convert before that")
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            raise ValueError(f"{where} has hooks, which its MoD block would lose; remove them, or convert before them")
    parameters = list(block.parameters())
    if not parameters or not all(parameter.is_floating_point() for parameter in parameters):
        raise ValueError("its weights are quantised, or it has none; convert before quantising")
    return parameters[0]


def _check_finite(conv_block: nn.Module, block: Block, x: Tensor) -> None:
    """Run it once: some norms divide by the spread over the channels, and k may be 1."""
    further = (*block.call.args, *block.call.kwargs.values())
    if x.is_meta or any(isinstance(value, Tensor) for value in further):
        return
    x.copy_(torch.linspace(-1, 1, math.prod(x.shape)).view(x.shape))
    with at_rest(conv_block):
        try:
            output = conv_block(x, *block.call.args, **block.call.kwargs)
        except Exception as error:  # whatever a foreign forward raises
            raise ValueError(f"it does not run with values: {error}") from error
    if not output.isfinite().all():
        raise ValueError("its output is not finite, as that of a norm over few channels")
