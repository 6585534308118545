"""plan: list which blocks of a network become MoD blocks, and why the other blocks do not."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Calls, Refused, trace_calls
from cnnmod.method.choices import SKIP, BlockChoices, Choice
from cnnmod.method.choose import FilterFn, choose, read_choices
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import discover, parts_of
from cnnmod.method.make import can_replace_part, make_mod_block
from cnnmod.method.planned import Plan, PlannedBlock
from cnnmod.method.skip import Skip, skipped_blocks
from cnnmod.method.trace import check_2d, example_for
from cnnmod.method.unwrapped import check_unwrapped

_Tried = dict[tuple[str, MoDConfig], MoDBlock | Refused]  # by the block's name and its config


def plan(
    model: nn.Module,
    config: MoDConfig | BlockChoices = MoDConfig(),
    *,
    filter_fn: FilterFn | None = None,
    example: Tensor | None = None,
) -> Plan:
    """Return what `convert_` would do with the same arguments. The model stays unchanged and may be on the meta device.

    If no chosen block can be a MoD block, `convert_` raises an error, but `plan` returns the reasons.

    Raises:
        ValueError: If the model is not 2D, already has MoD blocks, is wrapped, does not run on the example or has no
            modules, if `placement` or `filter_fn` chooses no block, or if `config` has a name that is not a block.

    Examples:
        >>> import timm
        >>> print(plan(timm.create_model("resnet18")))
        ResNet: 4 MoD blocks, c = 64
        block     class       module    C  k
        layer1.0  BasicBlock       0   64     first of its module
        layer1.1  BasicBlock       0   64  1  MoD block
        layer2.0  BasicBlock       1  128     first of its module
        layer2.1  BasicBlock       1  128  2  MoD block
        layer3.0  BasicBlock       2  256     first of its module
        layer3.1  BasicBlock       2  256  4  MoD block
        layer4.0  BasicBlock       3  512     first of its module
        layer4.1  BasicBlock       3  512  8  MoD block
    """
    with torch.random.fork_rng(devices=[]):  # a plan must not change the random weights of a later convert_
        return build_mod_blocks(model, config, filter_fn, example)[0]


def build_mod_blocks(
    model: nn.Module, config: MoDConfig | BlockChoices, filter_fn: FilterFn | None, example: Tensor | None
) -> tuple[Plan, list[tuple[Block, MoDBlock | Skip]]]:
    """Return the plan, and the layers that replace blocks. They are built, but not yet installed in the model."""
    check_unwrapped(model)
    config = read_choices(config, filter_fn)
    check_2d(model, example)
    example = example_for(model) if example is None else example
    if present := [name for name, module in model.named_modules() if isinstance(module, MoDBlock)]:
        raise ValueError(f"the model is already converted: {present[0]} is a MoD block ({len(present)} in total)")
    if present := skipped_blocks(model):
        raise ValueError(f"the model is already converted: {present[0]} is skipped ({len(present)} in total)")
    calls = trace_calls(model, example)
    modules = discover(model, calls)
    resolve = _Resolve(
        config if isinstance(config, MoDConfig) else MoDConfig(),
        config if isinstance(config, Mapping) else {},
        _channels_of_first_conv_block(modules, example),
        max(block.call.in_channels for module in modules for block in module[1:]),
    )
    resolve(resolve.usual)  # raises for an invalid c
    tried: _Tried = {}
    modules = [part for module in modules for part in _convertible(module, modules, calls, resolve, tried)]
    wanted, refused = choose(type(model).__name__, modules, config, filter_fn)
    stored = resolve(config) if isinstance(config, MoDConfig) else None
    if stored is not None and callable(stored.placement):
        stored = dataclasses.replace(stored, placement=tuple(wanted))
    replacements: list[tuple[Block, MoDBlock | Skip]] = []
    lines: list[PlannedBlock] = []
    for number, module in enumerate(modules):
        for position, block in enumerate(module):
            choice, made = wanted.get(block.name), None
            if choice == SKIP:
                made = Skip().train(block.layer.training)
            elif choice is not None:
                tried_block = _try(block, resolve(choice), tried)
                if isinstance(tried_block, Refused):
                    refused[block.name] = tried_block
                else:
                    made = tried_block
                    made.config = stored or made.config
            if made is not None:
                replacements.append((block, made))
            lines.append(
                PlannedBlock(
                    name=block.name,
                    kind=type(block.layer).__name__,
                    module=number,
                    position=position,
                    channels=block.call.out_channels,
                    chosen=choice is not None,
                    k=made.k if isinstance(made, MoDBlock) else None,
                    reason=refused[block.name].reason if block.name in refused else "",
                    c=made.config.c if isinstance(made, MoDBlock) else None,
                    skipped=isinstance(made, Skip),
                )
            )
    divisors = {line.c for line in lines if line.c is not None}
    c = stored.c if stored is not None else next(iter(divisors)) if len(divisors) == 1 else None
    return Plan(type(model).__name__, c, tuple(lines)), replacements


@dataclass(frozen=True)
class _Resolve:
    """A function that sets c in a config.

    Attributes:
        usual: The config of blocks that have no config of their own.
        named: The choices of blocks.
        c: The default of c.
        widest: The number of channels of the widest block.
    """

    usual: MoDConfig
    named: Mapping[str, Choice]
    c: int
    widest: int

    def __call__(self, config: MoDConfig) -> MoDConfig:
        if config.c is not None and config.c > self.widest:
            raise ValueError(f"c must be at most {self.widest}, the channels of the widest block, not {config.c}")
        return dataclasses.replace(config, c=self.c if config.c is None else config.c)

    def of(self, name: str) -> MoDConfig:
        """Return the config with which a block is tried."""
        choice = self.named.get(name)
        return self(choice if isinstance(choice, MoDConfig) else self.usual)


def _try(block: Block, config: MoDConfig, tried: _Tried) -> MoDBlock | Refused:
    """Return the block's MoD block, or the reason why it cannot be built."""
    key = block.name, config
    if key not in tried:
        try:
            tried[key] = make_mod_block(block, config)
        except ValueError as error:
            tried[key] = Refused(str(error))
    return tried[key]


def _convertible(
    module: list[Block], modules: list[list[Block]], calls: Calls, resolve: _Resolve, tried: _Tried
) -> list[list[Block]]:
    """Return the modules to convert: the module itself, or the modules of its blocks' convolutional parts.

    The parts are used only if no block of this class in the network can be a MoD block, for example because the blocks
    have attention, and if one of the parts can be a MoD block.
    """
    block_class = type(module[0].layer)
    same_class = [block for other in modules if type(other[0].layer) is block_class for block in other[1:]]
    if any(isinstance(_try(block, resolve.of(block.name), tried), MoDBlock) for block in same_class):
        return [module]

    def can_be_mod_block(part: Block) -> bool:
        mod_block = _try(part, resolve.of(part.name), tried)
        return isinstance(mod_block, MoDBlock) and can_replace_part(mod_block, part)

    part_modules = [parts for parts in parts_of(module, calls) if len(parts) > 1]
    convertible = [parts for parts in part_modules if any(can_be_mod_block(part) for part in parts[1:])]
    return convertible or [module]


def _channels_of_first_conv_block(modules: list[list[Block]], example: Tensor) -> int:
    """Return the paper's default c: the input channels of the first module that has a block to replace.

    VGG's first block takes the image itself, so its output channels are returned.
    """
    first = modules[0][0].call
    if first.in_shape[1:] == tuple(example.shape[1:]):
        return first.out_channels
    return next(module[0].call.in_channels for module in modules if len(module) > 1)
