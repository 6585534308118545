"""convert_, control_, mod_blocks: replace standard blocks by MoD blocks, and MoD blocks by the identity."""

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block
from cnnmod.method.choices import BlockChoices
from cnnmod.method.choose import FilterFn
from cnnmod.method.config import MoDConfig
from cnnmod.method.plan import build_mod_blocks
from cnnmod.method.skip import Skip
from cnnmod.method.trace import meta_forward
from cnnmod.method.unwrapped import check_unwrapped

ModelT = TypeVar("ModelT", bound=nn.Module)
logger = logging.getLogger("cnnmod")


def convert_(
    model: ModelT,
    config: MoDConfig | BlockChoices = MoDConfig(),
    *,
    filter_fn: FilterFn | None = None,
    example: Tensor | None = None,
) -> ModelT:
    """Replace blocks by MoD blocks, in place (paper, section 3.2). The rest of the model stays unchanged.

    The new blocks get new weights, from the same distribution as the initial weights of the blocks that they replace.
    Convert before wrapping the model (DDP, torch.compile) and before creating an optimizer. The logger `cnnmod` lists
    the MoD blocks (level INFO), and the chosen blocks that cannot be shrunk and stay standard blocks (level WARNING).
    `cnnmod.plan` shows both in advance.

    Args:
        model: Any 2D convolutional network whose forward takes one tensor.
        config: The method's settings. `placement` chooses the blocks of each module that are replaced. To choose for
            each block, pass a mapping from names of blocks, or a function of the name: a `MoDConfig` makes a MoD block
            (its `placement` is not used), `"skip"` replaces the block by the identity, and `None` keeps it. Blocks that
            a mapping does not name are kept. The path of a plan that `cnnmod.tune` wrote is also accepted.
        filter_fn: Restricts these blocks further. It is called as `filter_fn(block, qualified name)` and returns
            whether to replace the block.
        example: An input (N, C, H, W) for finding the shapes. `None` uses timm's input size, or else 224 × 224 pixels.

    Returns:
        The same model.

    Raises:
        ValueError: If the model has nothing to convert, is 1D or 3D, takes several inputs, already has MoD blocks or is
            wrapped, if no chosen block can be shrunk, or if a block that `placement` or a mapping names does not exist
            or cannot be shrunk. The model is unchanged.

    Examples:
        >>> import timm
        >>> model = convert_(timm.create_model("resnet50"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        18105949
        >>> model = convert_(timm.create_model("resnet50"), {"layer3.2": MoDConfig(c=16), "layer3.4": "skip"})
        >>> list(mod_blocks(model))
        ['layer3.2']
    """
    plan, built = build_mod_blocks(model, config, filter_fn, example)
    refused = [block for block in plan.blocks if block.chosen and block.k is None and not block.skipped]
    reasons = [f"{block.name} ({block.kind}): {block.reason}" for block in refused]
    is_named = isinstance(config.placement, tuple) if isinstance(config, MoDConfig) else not callable(config)
    if not built or (reasons and is_named):
        raise ValueError(f"{plan.network}: these blocks cannot be MoD blocks: {'; '.join(reasons)}")
    install_(model, built, example)
    names = ", ".join(plan.mod_blocks)
    divisor = "" if plan.c is None else f", c = {plan.c}"
    logger.info("converted %d blocks of %s to MoD blocks%s: %s", len(plan.mod_blocks), plan.network, divisor, names)
    if plan.skipped_blocks:
        skipped = ", ".join(plan.skipped_blocks)
        logger.info("replaced %d blocks of %s by the identity: %s", len(plan.skipped_blocks), plan.network, skipped)
    if reasons:
        logger.warning("%d of %s's blocks stay standard blocks: %s", len(reasons), plan.network, "; ".join(reasons))
    return model


def control_(model: ModelT) -> ModelT:
    """Replace every MoD block by the identity, in place. The result is the control of the network.

    Returns:
        The same model.

    Raises:
        ValueError: If the model has no MoD block or is wrapped.

    Examples:
        >>> import timm
        >>> model = control_(convert_(timm.create_model("resnet50")))
        >>> sum(parameter.numel() for parameter in model.parameters())
        17112360
    """
    check_unwrapped(model)
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD block; convert it with cnnmod.convert_ first")
    swap_(model, {name: Skip(block.config).train(block.training) for name, block in blocks.items()})
    return model


def mod_blocks(model: nn.Module) -> dict[str, MoDBlock]:
    """Return the model's MoD blocks by qualified name, in the order of `named_modules`.

    Examples:
        >>> import timm
        >>> list(mod_blocks(convert_(timm.create_model("resnet18"))))
        ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, MoDBlock)}


def install_(
    model: nn.Module, built: Sequence[tuple[Block, MoDBlock | Skip]], example: Tensor | None
) -> dict[str, nn.Module]:
    """Replace blocks by their MoD blocks or the identity, and run the network once.

    Returns:
        The replaced layers by name. `swap_(model, layers)` undoes the conversion.

    Raises:
        ValueError: If a block is also in a plain list, or the converted network does not run. The model is unchanged.
    """
    layers = {id(block.layer): block.name for block, _ in built}
    for holder, module in model.named_modules():
        for attribute, value in vars(module).items():
            for item in value if isinstance(value, (list, tuple)) else ():
                if id(item) in layers:
                    path = f"{holder}.{attribute}" if holder else attribute
                    raise ValueError(
                        f"{layers[id(item)]} is also in the plain list {path}, where it cannot be replaced"
                    )
    replacements: dict[str, nn.Module] = {}
    for block, replacement in built:
        replacements[block.name] = replacement
        replacements |= {name: nn.Identity().train(block.layer.training) for name in block.rest}
    replaced = swap_(model, replacements)
    try:
        meta_forward(model, example)
    except BaseException:  # including KeyboardInterrupt
        swap_(model, replaced)
        raise
    return replaced


def swap_(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Replace the modules with these qualified names, everywhere they are registered, and return the old modules."""
    replaced = {name: model.get_submodule(name) for name in modules}
    by_id = {id(replaced[name]): module for name, module in modules.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in by_id:
                setattr(parent, name, by_id[id(child)])
    return replaced
