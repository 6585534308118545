"""restructure_: convert a dense model as a file says."""

import os

from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Call, trace_calls
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import control_, install_
from cnnmod.method.discover import discover
from cnnmod.method.make import make_mod_block
from cnnmod.method.skip import Skip, skipped_blocks
from cnnmod.method.structure import Structure


def restructure_(
    model: nn.Module, structure: Structure, path: str | os.PathLike[str], example: Tensor | None = None
) -> dict[str, nn.Module]:
    """Convert a dense model in place as a file says. A model with MoD blocks is not changed.

    Args:
        model: The network.
        structure: What the file says.
        path: The file, for errors.
        example: An input (N, C, H, W), as for `convert_`.

    Returns:
        The replaced blocks by name.

    Raises:
        ValueError: If the file is of another network. The model is unchanged.
    """
    blocks, names = structure.blocks, [*structure.blocks, *structure.skipped]
    if not names or configs_of(model) or skipped_blocks(model):
        return {}
    candidates = _blocks(model, example)
    if missing := [name for name in names if name not in candidates]:
        kind = "a MoD block" if missing[0] in blocks else "skipped"
        raise ValueError(
            f"{path} is of another network: {missing[0]} is {kind} in the file, but not a block of the model"
        )
    for inner in names:
        if any(inner.startswith(f"{name}.") for name in names):
            raise ValueError(f"{path}: the MoD block {inner} is inside another MoD block")
    built: list[tuple[Block, MoDBlock | Skip]] = [
        (candidates[name], make_mod_block(candidates[name], config)) for name, config in blocks.items()
    ]
    built += [(candidates[name], _skip(path, candidates[name])) for name in structure.skipped]
    replaced = install_(model, built, example)
    if structure.control and blocks:
        control_(model)
    return replaced


def _blocks(model: nn.Module, example: Tensor | None) -> dict[str, Block]:
    """Return all layers that can be MoD blocks in a file: the blocks of the network's modules, and their parts."""
    calls = trace_calls(model, example)
    blocks = {
        name: Block(name, model.get_submodule(name), call) for name, call in calls.items() if isinstance(call, Call)
    }
    return blocks | {block.name: block for module in discover(model, calls) for block in module}


def configs_of(model: nn.Module) -> dict[str, MoDConfig]:
    """Return the configs of the MoD blocks, or of the layers that replace them in a control."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (MoDBlock, Skip))}
    return {name: layer.config for name, layer in layers.items() if layer.config is not None}


def is_control(model: nn.Module) -> bool:
    """Whether the identity replaces MoD blocks in the model."""
    return any(isinstance(layer, Skip) and layer.config is not None for layer in model.modules())


def _skip(path: str | os.PathLike[str], block: Block) -> Skip:
    """Return the identity that replaces a block.

    Raises:
        ValueError: If the block changes the shape of its input.
    """
    if block.call.in_shape != block.call.out_shape:
        raise ValueError(f"{path} is of another network: {block.name} is skipped in the file, but it changes the shape")
    return Skip().train(block.layer.training)
