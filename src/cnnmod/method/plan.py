"""plan: which blocks of a network become MoD blocks, and why the others do not."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, Calls, Refused, trace_calls
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import discover, parts_of
from cnnmod.method.make import make_mod_block, may_stand_inside
from cnnmod.method.trace import check_2d, example_for
from cnnmod.records.text import TextTable

FilterFn = Callable[[nn.Module, str], bool]
_Tried = dict[str, MoDBlock | Refused]  # by the block's name


@dataclass(frozen=True)
class PlannedBlock:
    """One block of a network.

    Attributes:
        name: Its qualified name.
        kind: Its class.
        module, position: Where it stands: in which module, and at which position there, both counted from 0.
        channels: C, the channels of its output.
        chosen: Whether `placement` and `filter_fn` choose it.
        k: How many of them its MoD block selects; `None` for a standard block.
        reason: Why it stays a standard block; empty for a MoD block.
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
    """What `convert_` would do to a network; it shows itself as a table.

    Attributes:
        network: The network's class.
        c: The method's c: k = max(1, C // c).
        blocks: All blocks, in the network's order.
    """

    network: str
    c: int
    blocks: tuple[PlannedBlock, ...]

    @property
    def mod_blocks(self) -> list[str]:
        """The names of the blocks that become MoD blocks."""
        return [block.name for block in self.blocks if block.k is not None]

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
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
    """What `convert_` with these arguments would do; the model, which may be on the meta device, stays as it is.

    Raises:
        ValueError: The model is not 2D, is converted already or wrapped, does not run on the example, has no modules,
            or `placement` or `filter_fn` chooses no block. Where no chosen block can be a MoD block there is a plan,
            with the reasons.

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
    with torch.random.fork_rng(devices=[]):  # the weights that convert_ draws are to be the same
        return build_mod_blocks(model, config, filter_fn, example)[0]


def build_mod_blocks(
    model: nn.Module, config: MoDConfig, filter_fn: FilterFn | None, example: Tensor | None
) -> tuple[Plan, list[tuple[Block, MoDBlock]]]:
    """The plan, and the MoD blocks that it names, built but not yet in their blocks' places."""
    check_bare(model)
    if not isinstance(config, MoDConfig):
        raise ValueError(f"config must be a MoDConfig, not {type(config).__name__}")
    check_2d(model, example)
    example = example_for(model) if example is None else example
    if present := [name for name, module in model.named_modules() if isinstance(module, MoDBlock)]:
        raise ValueError(f"the model is already converted: {present[0]} is a MoD block ({len(present)} in all)")
    calls = trace_calls(model, example)
    modules = discover(model, calls)
    c = _channels_of_first_conv_block(modules, example) if config.c is None else config.c
    widest = max(block.call.in_channels for module in modules for block in module[1:])
    if config.c is not None and c > widest:
        raise ValueError(f"c = {c} is more than the channels of every block; the widest has C = {widest}")
    settled = dataclasses.replace(config, c=c)
    tried: _Tried = {}
    modules = [part for module in modules for part in _served(module, modules, calls, settled, tried)]
    refused = _not_chosen(modules, config, filter_fn)
    chosen = tuple(block.name for module in modules for block in module if block.name not in refused)
    if callable(config.placement):
        settled = dataclasses.replace(settled, placement=chosen)
    built: dict[str, MoDBlock] = {}
    chosen_blocks = [block for module in modules for block in module if block.name in chosen]
    for block in chosen_blocks:
        mod_block = _try(block, settled, tried)
        if isinstance(mod_block, Refused):
            refused[block.name] = mod_block
        else:
            mod_block.config = settled
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
    """The block's MoD block, or why it has none."""
    if block.name not in tried:
        try:
            tried[block.name] = make_mod_block(block, config)
        except ValueError as error:
            tried[block.name] = Refused(str(error))
    return tried[block.name]


def _served(
    module: list[Block], modules: list[list[Block]], calls: Calls, config: MoDConfig, tried: _Tried
) -> list[list[Block]]:
    """The module itself; or, where no block of its class can be a MoD block (it has attention, say), the modules of its
    blocks' convolutional parts, if any of those can."""
    kind = type(module[0].layer)
    alike = [block for other in modules if type(other[0].layer) is kind for block in other[1:]]
    if any(isinstance(_try(block, config, tried), MoDBlock) for block in alike):
        return [module]

    def _adds(part: Block) -> bool:
        mod_block = _try(part, config, tried)
        return isinstance(mod_block, MoDBlock) and may_stand_inside(mod_block, part)

    parts = [part for part in parts_of(module, calls) if len(part) > 1]
    served = [part for part in parts if any(_adds(block) for block in part[1:])]
    return served or [module]


def _not_chosen(modules: list[list[Block]], config: MoDConfig, filter_fn: FilterFn | None) -> dict[str, Refused]:
    """The blocks that the arguments leave standard blocks."""
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
        left = [block for block in chosen if not filter_fn(block.layer, block.name)]
        if len(left) == len(chosen):
            types = sorted({type(block.layer).__name__ for block in chosen})
            raise ValueError(f"filter_fn accepts none of the blocks {[block.name for block in chosen]} of type {types}")
        refused |= {block.name: Refused("filter_fn") for block in left}
    return refused


def _is_placed(config: MoDConfig, module: int, position: int, name: str) -> bool:
    if isinstance(config.placement, tuple):
        return name in config.placement
    if callable(config.placement):
        return config.placement(module, position)
    return config.placement == "all" or position % 2 == 1


def _channels_of_first_conv_block(modules: list[list[Block]], example: Tensor) -> int:
    """The paper's c: what enters the first module that has a block to replace; in VGG, whose first block takes the
    image itself, what that makes of it."""
    first = modules[0][0].call
    if first.in_shape[1:] == tuple(example.shape[1:]):
        return first.out_channels
    return next(module[0].call.in_channels for module in modules if len(module) > 1)
