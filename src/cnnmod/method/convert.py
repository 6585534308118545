"""convert_, control_, mod_blocks: standard blocks become MoD blocks, MoD blocks become the identity."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.config import MoDConfig
from cnnmod.method.discover import Block, discover
from cnnmod.method.residual import drop_residual_
from cnnmod.method.shrink import shrink
from cnnmod.method.trace import meta_forward

ModelT = TypeVar("ModelT", bound=nn.Module)
FilterFn = Callable[[nn.Module, str], bool]
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule"}
_log = logging.getLogger("cnnmod")


def convert_(
    model: ModelT,
    config: MoDConfig = MoDConfig(),
    *,
    filter_fn: FilterFn | None = None,
    example: Tensor | None = None,
) -> ModelT:
    """Replace blocks by MoD blocks, in place (paper, section 3.2); the rest of the model stays bit for bit.

    The new blocks' weights are fresh, drawn by the law that initialised the blocks that they replace. Convert before
    wrapping (DDP, torch.compile) and before making an optimizer.

    Args:
        model: Any convolutional network.
        config: The method's choices; `placement` says which blocks of a module are replaced.
        filter_fn: Further restricts them: `(block, qualified name) -> bool`.
        example: An input (N, C, H, W) to find shapes with; `None` takes timm's input size or 224 pixels square.

    Returns:
        The same model.

    Raises:
        ValueError: Nothing to convert, MoD blocks already there, a wrapped model, or a block whose shrunken form does
            not work. The model is then what it was.

    Example:
        >>> import timm
        >>> model = convert_(timm.create_model("resnet50"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        18105949
    """
    check_bare(model)
    if present := list(mod_blocks(model)):
        raise ValueError(f"the model is already converted: {present[0]} is a MoD block ({len(present)} in all)")
    modules = discover(model, example)
    chosen = _choose(modules, config, filter_fn)
    settled = dataclasses.replace(
        config,
        c=_channels_of_first_conv_block(modules) if config.c is None else config.c,
        placement=tuple(block.name for block in chosen) if callable(config.placement) else config.placement,
    )
    install_(model, [(block, settled) for block in chosen], example)
    names = ", ".join(block.name for block in chosen)
    _log.info("converted %d blocks of %s to MoD blocks: %s", len(chosen), type(model).__name__, names)
    return model


def control_(model: ModelT) -> ModelT:
    """Replace every MoD block by the identity, in place: the control, which shows what MoD blocks give and cost.

    Returns:
        The same model.

    Raises:
        ValueError: The model has no MoD block.

    Example:
        >>> import timm
        >>> model = control_(convert_(timm.create_model("resnet50")))
        >>> sum(parameter.numel() for parameter in model.parameters())
        17112360
    """
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD block; convert it with cnnmod.convert_ first")
    swap_(model, {name: nn.Identity().train(block.training) for name, block in blocks.items()})
    return model


def mod_blocks(model: nn.Module) -> dict[str, MoDBlock]:
    """The model's MoD blocks by qualified name, in the network's order.

    Example:
        >>> import timm
        >>> list(mod_blocks(convert_(timm.create_model("resnet18"))))
        ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, MoDBlock)}


def install_(
    model: nn.Module, blocks: Sequence[tuple[Block, MoDConfig]], example: Tensor | None
) -> dict[str, nn.Module]:
    """Put MoD blocks in these blocks' places, try the network, and return what stood there, for `swap_`.

    Each config's c is settled. After a `ValueError` the model is what it was.
    """
    replacements: dict[str, nn.Module] = {}
    for block, config in blocks:
        replacements[block.name] = _mod_block(block, config)
        replacements |= {name: nn.Identity().train(block.layer.training) for name in block.rest}
    replaced = swap_(model, replacements)
    try:
        meta_forward(model, example)
    except ValueError:
        swap_(model, replaced)
        raise
    return replaced


def swap_(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Put modules at these qualified names, and wherever else those that stood there are registered; return them."""
    replaced = {name: model.get_submodule(name) for name in modules}
    by_id = {id(replaced[name]): module for name, module in modules.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in by_id:
                setattr(parent, name, by_id[id(child)])
    return replaced


def check_bare(model: nn.Module) -> None:
    """Raise `ValueError` for what is no module, or is or holds a wrapper of DDP, FSDP or torch.compile."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"this takes a torch.nn.Module, not {type(model).__name__}")
    for module in model.modules():
        if type(module).__name__ in _WRAPPERS:
            raise ValueError(f"this takes the model itself, before it is wrapped in {type(module).__name__}")


def _choose(modules: list[list[Block]], config: MoDConfig, filter_fn: FilterFn | None) -> list[Block]:
    placement = config.placement
    eligible = {
        block.name: (block, number, position)
        for number, module in enumerate(modules)
        for position, block in enumerate(module)
        if position > 0
    }
    if isinstance(placement, tuple):
        if missing := [name for name in placement if name not in eligible]:
            raise ValueError(
                f"placement names {missing[0]!r}, but the blocks that can be MoD blocks are {list(eligible)}"
            )
        chosen = [eligible[name][0] for name in eligible if name in placement]
    elif placement == "alternate":
        chosen = [block for block, _, position in eligible.values() if position % 2 == 1]
    elif placement == "all":
        chosen = [block for block, _, _ in eligible.values()]
    else:
        assert callable(placement)
        chosen = [block for block, number, position in eligible.values() if placement(number, position)]
    if not chosen:
        raise ValueError(f"placement {placement!r} chooses none of the {len(eligible)} blocks that can be MoD blocks")
    if filter_fn is None:
        return chosen
    kept = [block for block in chosen if filter_fn(block.layer, block.name)]
    if not kept:
        types = sorted({type(block.layer).__name__ for block in chosen})
        raise ValueError(f"filter_fn accepts none of the blocks {[block.name for block in chosen]} of type {types}")
    return kept


def _channels_of_first_conv_block(modules: list[list[Block]]) -> int:
    """The paper's c: what enters the first module that has a block to replace; for VGG, whose first block takes the
    image itself, what that makes of it."""
    if isinstance(modules[0][0].layer, nn.Sequential):
        return modules[0][0].out_shape[1]
    return next(module[0].in_shape[1] for module in modules if len(module) > 1)


def _mod_block(block: Block, config: MoDConfig) -> MoDBlock:
    assert config.c is not None
    channels = block.in_shape[1]
    k = max(1, channels // config.c)
    parameter = next(block.layer.parameters())
    example = torch.empty(1, k, *block.in_shape[2:], device="meta", dtype=parameter.dtype)
    try:
        conv_block = shrink(block.layer, min(config.c, channels))
        out_shape = tuple(meta_forward(conv_block, example).shape)
        if out_shape != tuple(example.shape):
            raise ValueError(f"it maps {tuple(example.shape)} to {out_shape}")
        if not config.residual:
            drop_residual_(conv_block, k)
    except ValueError as error:
        raise ValueError(
            f"{block.name}: its Conv-Block of {k} channels does not work (filter_fn can leave it out): {error}"
        ) from error
    return MoDBlock(conv_block, channels, k, config, parameter.device, parameter.dtype).train(block.layer.training)
