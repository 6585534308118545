"""plan: which blocks of a network become MoD blocks, and why the others do not."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Call, trace_calls
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import Block, Calls, discover, parts_of
from cnnmod.method.fit import fit_
from cnnmod.method.residual import drop_residual_, has_residual
from cnnmod.method.shrink import shrink
from cnnmod.method.trace import example_for

FilterFn = Callable[[nn.Module, str], bool]
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule"}


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
    """What `convert_` would do to a network; `print` shows it as a table.

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

    def __str__(self) -> str:
        header = ("block", "class", "module", "C", "k", "")
        lines = [(b.name, b.kind, b.module, b.channels, b.k or "", b.reason or "MoD block") for b in self.blocks]
        rows = [tuple(map(str, line)) for line in (header, *lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([f"{self.network}: {len(self.mod_blocks)} MoD blocks, c = {self.c}", *table])


def plan(
    model: nn.Module,
    config: MoDConfig = MoDConfig(),
    *,
    filter_fn: FilterFn | None = None,
    example: Tensor | None = None,
) -> Plan:
    """What `convert_` with these arguments would do; the model, which may be on the meta device, stays as it is.

    Raises:
        ValueError: The model is converted already or wrapped, does not run on the example, has no modules, or
            `placement` or `filter_fn` chooses no block. Where no chosen block can be a MoD block there is a plan,
            with the reasons.

    Example:
        >>> import timm
        >>> print(plan(timm.create_model("resnet18")))
        ResNet: 4 MoD blocks, c = 64
        block     class       module  C    k
        layer1.0  BasicBlock  0       64      first of its module
        layer1.1  BasicBlock  0       64   1  MoD block
        layer2.0  BasicBlock  1       128     first of its module
        layer2.1  BasicBlock  1       128  2  MoD block
        layer3.0  BasicBlock  2       256     first of its module
        layer3.1  BasicBlock  2       256  4  MoD block
        layer4.0  BasicBlock  3       512     first of its module
        layer4.1  BasicBlock  3       512  8  MoD block
    """
    return build_mod_blocks(model, config, filter_fn, example)[0]


def build_mod_blocks(
    model: nn.Module, config: MoDConfig, filter_fn: FilterFn | None, example: Tensor | None
) -> tuple[Plan, list[tuple[Block, MoDBlock]]]:
    """The plan, and the MoD blocks that it names, built but not yet in their blocks' places."""
    check_bare(model)
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
    tried: dict[str, MoDBlock | str] = {}
    modules = [part for module in modules for part in _served(module, modules, calls, settled, tried)]
    reasons = _reasons(modules, config, filter_fn)
    chosen = tuple(name for name, reason in reasons.items() if not reason)
    if callable(config.placement):
        settled = dataclasses.replace(settled, placement=chosen)
    built: dict[str, tuple[Block, MoDBlock]] = {}
    for block in (block for module in modules for block in module if block.name in chosen):
        made = _try(block, settled, tried)
        if isinstance(made, str):
            reasons[block.name] = made
        else:
            made.config = settled
            built[block.name] = block, made
    planned = [
        PlannedBlock(
            name=block.name,
            kind=type(block.layer).__name__,
            module=number,
            position=position,
            channels=block.call.out_channels,
            chosen=block.name in chosen,
            k=built[block.name][1].k if block.name in built else None,
            reason=reasons[block.name],
        )
        for number, module in enumerate(modules)
        for position, block in enumerate(module)
    ]
    return Plan(type(model).__name__, c, tuple(planned)), list(built.values())


def _try(block: Block, config: MoDConfig, tried: dict[str, MoDBlock | str]) -> MoDBlock | str:
    """The block's MoD block, or why it has none."""
    if block.name not in tried:
        try:
            tried[block.name] = mod_block(block, config)
        except ValueError as error:
            tried[block.name] = str(error)
    return tried[block.name]


def _served(
    module: list[Block], modules: list[list[Block]], calls: Calls, config: MoDConfig, tried: dict[str, MoDBlock | str]
) -> list[list[Block]]:
    """The module itself; or, where no block of its class can be a MoD block (it has attention, say), the modules of its
    blocks' convolutional parts, if any of those can."""
    kind = type(module[0].layer)
    alike = [block for other in modules if type(other[0].layer) is kind for block in other[1:]]
    if any(not isinstance(_try(block, config, tried), str) for block in alike):
        return [module]
    parts = [part for part in parts_of(module, calls) if len(part) > 1]
    served = [part for part in parts if any(_adds(_try(block, config, tried), block) for block in part[1:])]
    return served or [module]


def _adds(made: MoDBlock | str, block: Block) -> bool:
    """Whether the block has a residual: inside a larger block only such a one can be replaced by a MoD block, which
    passes its input on."""
    if isinstance(made, str):
        return False
    shape = list(block.call.in_shape)
    shape[block.call.layout.index("C")] = made.k
    try:
        return has_residual(made.conv_block, shape)
    except ValueError:
        return False


def mod_block(block: Block, config: MoDConfig) -> MoDBlock:
    """The MoD block for a block of a network; `config.c` is a number.

    Raises:
        ValueError: It cannot be built, with the reason.
    """
    assert config.c is not None
    channels, layout = block.call.in_channels, block.call.layout
    k = max(1, channels // config.c)
    parameter = _check_weights(block.layer)
    shape = list(block.call.in_shape)
    shape[layout.index("C")] = k
    example = torch.empty(shape, device="meta", dtype=parameter.dtype)
    try:
        conv_block = shrink(block.layer, min(config.c, channels))
        output = fit_(conv_block, block.layer, example, block.call.args, block.call.kwargs)
        if tuple(output.shape) != tuple(example.shape):
            raise ValueError(f"it maps {tuple(example.shape)} to {tuple(output.shape)}")
        if not config.residual:
            drop_residual_(conv_block, shape)
        _check_finite(conv_block, shape, parameter, block.call)
    except Exception as error:  # whatever foreign modules raise when they are copied
        raise ValueError(f"its Conv-Block of {k} channels does not work: {error}") from error
    built = MoDBlock(conv_block, channels, k, config, parameter.device, parameter.dtype, layout)
    return built.train(block.layer.training)


def _check_finite(conv_block: nn.Module, shape: list[int], like: Tensor, call: Call) -> None:
    """Run it once on its own device: some norms divide by the spread over the channels, and k may be 1."""
    if like.is_meta or any(isinstance(value, Tensor) for value in (*call.args, *call.kwargs.values())):
        return
    x = torch.linspace(-1, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)
    with torch.no_grad():
        output = conv_block.eval()(x, *call.args, **call.kwargs)
    if not output.isfinite().all():
        raise ValueError("its output is not finite, as that of a norm over few channels")


def check_bare(model: nn.Module) -> None:
    """Raise `ValueError` for what is no module, or is or holds a wrapper of DDP, FSDP or torch.compile."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"this takes a torch.nn.Module, not {type(model).__name__}")
    for module in model.modules():
        if type(module).__name__ in _WRAPPERS:
            raise ValueError(f"this takes the model itself, before it is wrapped in {type(module).__name__}")


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


def _reasons(modules: list[list[Block]], config: MoDConfig, filter_fn: FilterFn | None) -> dict[str, str]:
    """For each block why the arguments leave it a standard block; empty if they do not."""
    placement = config.placement
    eligible = [block.name for module in modules for block in module[1:]]
    if isinstance(placement, tuple) and (missing := [name for name in placement if name not in eligible]):
        raise ValueError(f"placement names {missing[0]!r}, but the blocks that can be MoD blocks are {eligible}")
    reasons: dict[str, str] = {}
    for number, module in enumerate(modules):
        for position, block in enumerate(module):
            if position == 0:
                reasons[block.name] = "first of its module"
            elif isinstance(placement, tuple):
                reasons[block.name] = "" if block.name in placement else "placement"
            elif callable(placement):
                reasons[block.name] = "" if placement(number, position) else "placement"
            else:
                reasons[block.name] = "" if placement == "all" or position % 2 else "placement"
    chosen = [block for module in modules for block in module if not reasons[block.name]]
    if not chosen:
        raise ValueError(f"placement {placement!r} chooses none of the {len(eligible)} blocks that can be MoD blocks")
    if filter_fn is not None:
        for block in chosen:
            reasons[block.name] = "" if filter_fn(block.layer, block.name) else "filter_fn"
        if all(reasons.values()):
            types = sorted({type(block.layer).__name__ for block in chosen})
            raise ValueError(f"filter_fn accepts none of the blocks {[block.name for block in chosen]} of type {types}")
    return reasons


def _channels_of_first_conv_block(modules: list[list[Block]], example: Tensor) -> int:
    """The paper's c: what enters the first module that has a block to replace; in VGG, whose first block takes the
    image itself, what that makes of it."""
    first = modules[0][0].call
    if first.in_shape[1:] == tuple(example.shape[1:]):
        return first.out_channels
    return next(module[0].call.in_channels for module in modules if len(module) > 1)
