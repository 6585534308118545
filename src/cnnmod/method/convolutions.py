"""Find VGG's modules: runs of consecutive convolutions, each with the norm and activation that follow it."""

from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Call, Calls, children_of

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)
_UNIT_STARTS = (nn.Conv2d, MoDBlock)
_UNIT_PARTS = (_BatchNorm, *_ACTIVATIONS, nn.Identity)  # a MoD block that replaces three layers leaves two identities


class ConvNormAct(nn.Sequential):
    """VGG's block: a convolution and the norm and activation that follow it."""


def runs_of_convolutions(model: nn.Module, calls: Calls) -> list[list[Block]]:
    """Return VGG's modules: the convolutions between two poolings, each with its norm and activation."""
    runs: list[list[Block]] = []
    mod_block_prefixes = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, MoDBlock))
    for parent_name, parent in model.named_modules():
        in_order = isinstance(parent, (nn.Sequential, nn.ModuleDict))  # timm's features_only turns VGG into a dict
        if in_order and not parent_name.startswith(mod_block_prefixes):
            runs += _convolution_runs(list(children_of(parent, parent_name)), calls)
    return runs if any(len(run) > 1 for run in runs) else []


def _convolution_runs(named: list[tuple[str, nn.Module]], calls: Calls) -> Iterator[list[Block]]:
    run: list[Block] = []
    for unit in _units(named):
        block = _unit_block(unit, calls)
        if run and (block is None or not block.continues(run[-1])):
            yield run
            run = []
        if block is not None:
            run.append(block)
    if run:
        yield run


def _unit_block(unit: list[tuple[str, nn.Module]], calls: Calls) -> Block | None:
    names, layers = [name for name, _ in unit], [layer for _, layer in unit]
    first, last = calls.get(names[0]), calls.get(names[-1])
    if not (isinstance(layers[0], _UNIT_STARTS) and isinstance(first, Call) and isinstance(last, Call)):
        return None
    layer = layers[0] if isinstance(layers[0], MoDBlock) else ConvNormAct(*layers)
    layer.training = layers[0].training
    return Block(names[0], layer, replace(first, out_shape=last.out_shape, writes=last.writes), tuple(names[1:]))


def _units(named: list[tuple[str, nn.Module]]) -> list[list[tuple[str, nn.Module]]]:
    """Group each convolution with the norm and activation that follow it. Every other layer is a group of its own."""
    units: list[list[tuple[str, nn.Module]]] = []
    for name, layer in named:
        if units and isinstance(units[-1][0][1], _UNIT_STARTS) and isinstance(layer, _UNIT_PARTS):
            units[-1].append((name, layer))
        else:
            units.append([(name, layer)])
    return units
