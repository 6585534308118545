"""plan: list which blocks of a network become MoD blocks, and why the other blocks do not."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Calls, Refused, trace_calls
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import discover, parts_of
from cnnmod.method.make import can_replace_part, make_mod_block
from cnnmod.method.trace import check_2d, example_for
from cnnmod.method.unwrapped import check_unwrapped
from cnnmod.records.frame import data_frame
from cnnmod.records.text import TextTable

FilterFn = Callable[[nn.Module, str], bool]
_Tried = dict[str, MoDBlock | Refused]  # by the block's name


@dataclass(frozen=True)
class PlannedBlock:
    """One block of a network.

    Attributes:
        name: The block's qualified name.
        kind: The name of its class.
        module, position: The index of its module and its position in the module, both counted from 0.
        channels: C, the number of channels of its output.
        chosen: Whether `placement` and `filter_fn` choose the block.
        k: The number of channels that the MoD block selects. `None` for a standard block.
        reason: The reason why it stays a standard block. Empty for a MoD block.
    """

    name: str
    kind: str
    module: int
    position: int
    channels: int
    chosen: bool
    k: int | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """The planned conversion of a network. It is printed as a table.

    Attributes:
        network: The name of the network's class.
        c: The divisor c in k = max(1, C // c).
        blocks: All blocks, in the network's order.
    """

    network: str
    c: int
    blocks: tuple[PlannedBlock, ...]

    @property
    def mod_blocks(self) -> list[str]:
        """The names of the blocks that become MoD blocks."""
        return [block.name for block in self.blocks if block.k is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    def to_pandas(self) -> Any:
        """Return a pandas data frame with a line for each block.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        return data_frame([dataclasses.asdict(block) for block in self.blocks])

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """Return the table as HTML, for notebooks."""
        return self._table().html()

    def _table(self) -> TextTable:
        lines = [(b.name, b.kind, b.module, b.channels, b.k or "", b.reason or "MoD block") for b in self.blocks]
        title = f"{self.network}: {len(self.mod_blocks)} MoD blocks, c = {self.c}"
        return TextTable(title, ["block", "class", "module", "C", "k", ""], [list(map(str, line)) for line in lines])


def plan(
    model: nn.Module,
    config: MoDConfig = MoDConfig(),
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
    model: nn.Module, config: MoDConfig, filter_fn: FilterFn | None, example: Tensor | None
) -> tuple[Plan, list[tuple[Block, MoDBlock]]]:
    """Return the plan and its MoD blocks, which are built but not yet installed in the model."""
    check_unwrapped(model)
    if not isinstance(config, MoDConfig):
        raise ValueError(f"config must be a MoDConfig, not {type(config).__name__}")
    check_2d(model, example)
    example = example_for(model) if example is None else example
    if present := [name for name, module in model.named_modules() if isinstance(module, MoDBlock)]:
        raise ValueError(f"the model is already converted: {present[0]} is a MoD block ({len(present)} in total)")
    calls = trace_calls(model, example)
    modules = discover(model, calls)
    c = _channels_of_first_conv_block(modules, example) if config.c is None else config.c
    widest = max(block.call.in_channels for module in modules for block in module[1:])
    if config.c is not None and c > widest:
        raise ValueError(f"c must be at most {widest}, the channels of the widest block, not {c}")
    resolved = dataclasses.replace(config, c=c)
    tried: _Tried = {}
    modules = [part for module in modules for part in _convertible(module, modules, calls, resolved, tried)]
    refused = _not_chosen(modules, config, filter_fn)
    chosen = tuple(block.name for module in modules for block in module if block.name not in refused)
    if callable(config.placement):
        resolved = dataclasses.replace(resolved, placement=chosen)
    built: dict[str, MoDBlock] = {}
    chosen_blocks = [block for module in modules for block in module if block.name in chosen]
    for block in chosen_blocks:
        mod_block = _try(block, resolved, tried)
        if isinstance(mod_block, Refused):
            refused[block.name] = mod_block
        else:
            mod_block.config = resolved
            built[block.name] = mod_block
    planned = [
        PlannedBlock(
            name=block.name,
            kind=type(block.layer).__name__,
            module=number,
            position=position,
            channels=block.call.out_channels,
            chosen=block.name in chosen,
            k=built[block.name].k if block.name in built else None,
            reason=refused[block.name].reason if block.name in refused else "",
        )
        for number, module in enumerate(modules)
        for position, block in enumerate(module)
    ]
    pairs = [(block, built[block.name]) for block in chosen_blocks if block.name in built]
    return Plan(type(model).__name__, c, tuple(planned)), pairs


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
