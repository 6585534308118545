"""plan: list which blocks of a network become MoD blocks, and why the other blocks do not."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock, changed_fields
from cnnmod.method.calls import Block, Calls, Refused, trace_calls
from cnnmod.method.choices import Choice, Choices, Skip, choose
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import discover, parts_of
from cnnmod.method.make import can_replace_part, make_mod_block
from cnnmod.method.trace import check_2d, example_for
from cnnmod.method.unwrapped import check_unwrapped
from cnnmod.records.text import TextTable

FilterFn = Callable[[nn.Module, str], bool]
_Tried = dict[str, MoDBlock | Refused]  # by the block's name
_OneByOne = Mapping[str, Any] | Callable[[str], Any]


@dataclass(frozen=True)
class PlannedBlock:
    """One block of a network.

    Attributes:
        name: The block's qualified name.
        kind: The name of its class.
        module, position: The index of its module and its position in the module, both counted from 0.
        channels: C, the number of channels of its output.
        chosen: Whether `placement` and `filter_fn` choose the block.
        k: The number of channels that the MoD block selects. `None` for other blocks.
        reason: The reason why it stays a standard block. Empty for other blocks.
        skipped: Whether the identity replaces the block.
        changes: The options of the MoD block that differ from the defaults, if blocks have configs of their own.
    """

    name: str
    kind: str
    module: int
    position: int
    channels: int
    chosen: bool
    k: int | None
    reason: str
    skipped: bool = False
    changes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """What becomes of the block, as text."""
        return "skip" if self.skipped else self.reason or ", ".join(["MoD block", *self.changes])


@dataclass(frozen=True)
class Plan:
    """The planned conversion of a network. It is printed as a table.

    Attributes:
        network: The name of the network's class.
        c: The divisor c in k = max(1, C // c), of all blocks that have no other one.
        blocks: All blocks, in the network's order.
    """

    network: str
    c: int
    blocks: tuple[PlannedBlock, ...]

    @property
    def mod_blocks(self) -> list[str]:
        """The names of the blocks that become MoD blocks."""
        return [block.name for block in self.blocks if block.k is not None]

    @property
    def skipped_blocks(self) -> list[str]:
        """The names of the blocks that the identity replaces."""
        return [block.name for block in self.blocks if block.skipped]

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """Return the table as HTML, for notebooks."""
        return self._table().html()

    def _table(self) -> TextTable:
        lines = [(b.name, b.kind, b.module, b.channels, b.k or "", b.outcome) for b in self.blocks]
        skipped = f", {len(self.skipped_blocks)} skipped" if self.skipped_blocks else ""
        title = f"{self.network}: {len(self.mod_blocks)} MoD blocks{skipped}, c = {self.c}"
        return TextTable(title, ["block", "class", "module", "C", "k", ""], [list(map(str, line)) for line in lines])


def plan(
    model: nn.Module,
    config: Choices = MoDConfig(),
    *,
    filter_fn: FilterFn | None = None,
    example: Tensor | None = None,
) -> Plan:
    """Return what `convert_` would do with the same arguments. The model stays unchanged and may be on the meta device.

    If no chosen block can be a MoD block, `convert_` raises an error, but `plan` returns the reasons.

    Raises:
        ValueError: If the model is not 2D, already has MoD blocks, is wrapped, does not run on the example or has no
            modules, or if `placement` or `filter_fn` chooses no block.

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
    model: nn.Module, config: Choices, filter_fn: FilterFn | None, example: Tensor | None
) -> tuple[Plan, list[tuple[Block, nn.Module]]]:
    """Return the plan, and the MoD block or `Skip` of each block to replace. The model is not changed."""
    check_unwrapped(model)
    common, choices = _common_config(config, filter_fn)
    check_2d(model, example)
    example = example_for(model) if example is None else example
    if present := [name for name, module in model.named_modules() if isinstance(module, MoDBlock)]:
        raise ValueError(f"the model is already converted: {present[0]} is a MoD block ({len(present)} in total)")
    calls = trace_calls(model, example)
    modules = discover(model, calls)
    c = _channels_of_first_conv_block(modules, example) if common.c is None else common.c
    widest = max(block.call.in_channels for module in modules for block in module[1:])
    if common.c is not None and c > widest:
        raise ValueError(f"c must be at most {widest}, the channels of the widest block, not {c}")
    resolved = dataclasses.replace(common, c=c)
    tried: _Tried = {}
    modules = [part for module in modules for part in _convertible(module, modules, calls, resolved, tried)]
    if choices is None:
        refused = _not_chosen(modules, common, filter_fn)
        chosen = tuple(block.name for module in modules for block in module if block.name not in refused)
        if callable(common.placement):
            resolved = dataclasses.replace(resolved, placement=chosen)
        wanted: dict[str, Choice] = dict.fromkeys(chosen, resolved)
    else:
        wanted = _chosen_one_by_one(choices, modules, c, widest)
        refused = {module[0].name: Refused("first of its module") for module in modules}
        refused |= {name: Refused("not chosen") for name, choice in wanted.items() if choice is None}
    built: dict[str, nn.Module] = {}
    blocks = [block for module in modules for block in module]
    for block in blocks:
        choice = wanted.get(block.name)
        if choice == "skip":
            built[block.name] = Skip(dataclasses.replace(resolved, placement=(block.name,))).train(block.layer.training)
        elif choice is not None:
            # Blocks were tried with the common config.
            mod_block = _try(block, choice, tried if choices is None else {})
            if isinstance(mod_block, Refused):
                refused[block.name] = mod_block
            else:
                mod_block.config = choice
                built[block.name] = mod_block
    planned: list[PlannedBlock] = []
    for number, module in enumerate(modules):
        for position, block in enumerate(module):
            made = built.get(block.name)
            planned.append(
                PlannedBlock(
                    name=block.name,
                    kind=type(block.layer).__name__,
                    module=number,
                    position=position,
                    channels=block.call.out_channels,
                    chosen=wanted.get(block.name) is not None,
                    k=made.k if isinstance(made, MoDBlock) else None,
                    reason=refused[block.name].reason if block.name in refused else "",
                    skipped=isinstance(made, Skip),
                    changes=_changes(made.config) if choices is not None and isinstance(made, MoDBlock) else (),
                )
            )
    pairs = [(block, built[block.name]) for block in blocks if block.name in built]
    return Plan(type(model).__name__, c, tuple(planned)), pairs


def _common_config(config: Choices, filter_fn: FilterFn | None) -> tuple[MoDConfig, _OneByOne | None]:
    """Return the config of all blocks, and the choices for single blocks, or `None`."""
    if isinstance(config, MoDConfig):
        return config, None
    if not (isinstance(config, Mapping) or callable(config)):
        raise ValueError(
            "config must be a MoDConfig, a dictionary from block names or a function of a block name, not "
            f"{type(config).__name__}"
        )
    if filter_fn is not None:
        raise ValueError("filter_fn is not accepted with a choice for each block")
    return MoDConfig(), config


def _chosen_one_by_one(choices: _OneByOne, modules: list[list[Block]], c: int, widest: int) -> dict[str, Choice]:
    """Return the choice for each block. Its config has a number as c, and the names of all MoD blocks as placement."""
    chosen = choose(choices, [block.name for module in modules for block in module[1:]])
    names = tuple(name for name, choice in chosen.items() if isinstance(choice, MoDConfig))
    for name, choice in chosen.items():
        if isinstance(choice, MoDConfig):
            if choice.c is not None and choice.c > widest:
                raise ValueError(
                    f"c of {name} must be at most {widest}, the channels of the widest block, not {choice.c}"
                )
            chosen[name] = dataclasses.replace(choice, c=choice.c or c, placement=names)
    return chosen


def _changes(config: MoDConfig) -> tuple[str, ...]:
    """Return the options that differ from the defaults. The names in `placement` are the same for all blocks."""
    return changed_fields(dataclasses.replace(config, placement="alternate"))


def _try(block: Block, config: MoDConfig, tried: _Tried) -> MoDBlock | Refused:
    """Return the block's MoD block, or the reason why it cannot be built."""
    if block.name not in tried:
        try:
            tried[block.name] = make_mod_block(block, config)
        except ValueError as error:
            tried[block.name] = Refused(str(error))
    return tried[block.name]


def _convertible(
    module: list[Block], modules: list[list[Block]], calls: Calls, config: MoDConfig, tried: _Tried
) -> list[list[Block]]:
    """Return the modules to convert: the module itself, or the modules of its blocks' convolutional parts.

    The parts are used only if no block of this class in the network can be a MoD block, for example because the blocks
    have attention, and if one of the parts can be a MoD block.
    """
    block_class = type(module[0].layer)
    same_class = [block for other in modules if type(other[0].layer) is block_class for block in other[1:]]
    if any(isinstance(_try(block, config, tried), MoDBlock) for block in same_class):
        return [module]

    def can_be_mod_block(part: Block) -> bool:
        mod_block = _try(part, config, tried)
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
