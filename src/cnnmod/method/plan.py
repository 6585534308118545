"""plan: list which blocks of a network become MoD blocks, and why the other blocks do not."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Calls, Refused, trace_calls
from cnnmod.method.choices import SKIP, BlockChoices, Choice, Choices, check_choice, check_names, read_plan
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import discover, parts_of
from cnnmod.method.make import can_replace_part, make_mod_block
from cnnmod.method.planned import Plan, PlannedBlock
from cnnmod.method.skip import Skip, skipped_blocks
from cnnmod.method.trace import check_2d, example_for
from cnnmod.method.unwrapped import check_unwrapped

FilterFn = Callable[[nn.Module, str], bool]
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
    config = _checked(config, filter_fn)
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
    if isinstance(config, MoDConfig):
        refused = _not_chosen(modules, config, filter_fn)
        names = tuple(block.name for module in modules for block in module if block.name not in refused)
        usual = resolve(config)
        wanted: dict[str, Choice] = dict.fromkeys(names, config)
        stored = dataclasses.replace(usual, placement=names) if callable(config.placement) else usual
    else:
        wanted, refused = _chosen(type(model).__name__, modules, config)
        stored = None
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
    c = resolve(config).c if isinstance(config, MoDConfig) else next(iter(divisors)) if len(divisors) == 1 else None
    return Plan(type(model).__name__, c, tuple(lines)), replacements


def _checked(config: Any, filter_fn: FilterFn | None) -> MoDConfig | Mapping[str, Choice] | Callable[[str], Choice]:
    """Return the config or the choices of `convert_`, of which a file is read."""
    if isinstance(config, MoDConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        config = read_plan(config)
    if not (isinstance(config, Mapping) or callable(config)):
        raise ValueError(
            "config must be a MoDConfig, a mapping or a function from names of blocks to a MoDConfig, 'skip' or None, "
            f"or the path of a plan, not {type(config).__name__}"
        )
    if filter_fn is not None:
        raise ValueError("filter_fn cannot be combined with a choice for each block; choose None for a block instead")
    if isinstance(config, Mapping):
        for name, choice in config.items():
            check_choice(name, choice)
    return cast(Mapping[str, Choice] | Callable[[str], Choice], config)  # a function's answers are checked later


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


def _chosen(
    network: str, modules: list[list[Block]], choices: Mapping[str, Choice] | Callable[[str], Choice]
) -> tuple[dict[str, Choice], dict[str, Refused]]:
    """Return the choice for each block that is replaced, and all other blocks with the reason."""
    blocks = {block.name: position == 0 for module in modules for position, block in enumerate(module)}
    names = [name for name, is_first in blocks.items() if not is_first]
    if isinstance(choices, Choices):
        channels = {block.name: block.call.out_channels for module in modules for block in module[1:]}
        choices.check_network(network, channels)
    if isinstance(choices, Mapping):
        check_names(network, choices, blocks)
        wanted: dict[str, Choice] = {name: choices.get(name) for name in names}
    else:
        wanted = {name: choices(name) for name in names}
        for name, choice in wanted.items():
            check_choice(name, choice)
    if all(choice is None for choice in wanted.values()):
        raise ValueError(f"the choices keep all {len(names)} blocks of {network}, so there is nothing to convert")
    reasons = {name: "first of its module" if is_first else "kept" for name, is_first in blocks.items()}
    refused = {name: Refused(reason) for name, reason in reasons.items() if wanted.get(name) is None}
    return wanted, refused


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


def _not_chosen(modules: list[list[Block]], config: MoDConfig, filter_fn: FilterFn | None) -> dict[str, Refused]:
    """Return the blocks that `placement` and `filter_fn` do not choose, each with the reason."""
    placement = config.placement
    eligible = [block for module in modules for block in module[1:]]
    names = [block.name for block in eligible]
    if isinstance(placement, tuple) and (missing := [name for name in placement if name not in names]):
        raise ValueError(f"placement names {missing[0]!r}, but the blocks that can be MoD blocks are {names}")
    refused = {module[0].name: Refused("first of its module") for module in modules}
    for number, module in enumerate(modules):
        for position, block in enumerate(module[1:], 1):
            if not _is_placed(config, number, position, block.name):
                refused[block.name] = Refused("placement")
    chosen = [block for block in eligible if block.name not in refused]
    if not chosen:
        raise ValueError(f"placement {placement!r} chooses none of the {len(eligible)} blocks that can be MoD blocks")
    if filter_fn is not None:
        rejected = [block for block in chosen if not filter_fn(block.layer, block.name)]
        if len(rejected) == len(chosen):
            types = sorted({type(block.layer).__name__ for block in chosen})
            raise ValueError(f"filter_fn accepts none of the blocks {[block.name for block in chosen]} of type {types}")
        refused |= {block.name: Refused("filter_fn") for block in rejected}
    return refused


def _is_placed(config: MoDConfig, module: int, position: int, name: str) -> bool:
    if isinstance(config.placement, tuple):
        return name in config.placement
    if callable(config.placement):
        return config.placement(module, position)
    return config.placement == "all" or position % 2 == 1


def _channels_of_first_conv_block(modules: list[list[Block]], example: Tensor) -> int:
    """Return the paper's default c: the input channels of the first module that has a block to replace.

    VGG's first block takes the image itself, so its output channels are returned.
    """
    first = modules[0][0].call
    if first.in_shape[1:] == tuple(example.shape[1:]):
        return first.out_channels
    return next(module[0].call.in_channels for module in modules if len(module) > 1)
