"""convert_, control_, mod_blocks: standard blocks become MoD blocks, MoD blocks become the identity."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from cnnmod.method.bare import check_bare
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block
from cnnmod.method.config import MoDConfig
from cnnmod.method.plan import FilterFn, build_mod_blocks
from cnnmod.method.trace import meta_forward

ModelT = TypeVar("ModelT", bound=nn.Module)
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
    wrapping (DDP, torch.compile) and before making an optimizer. What is done is logged (logger `cnnmod`, level INFO),
    and, as a warning, which chosen blocks stay standard blocks because they cannot be shrunken; `cnnmod.plan` says
    both beforehand.

    Args:
        model: Any 2D convolutional network whose forward takes one tensor.
        config: The method's choices; `placement` says which blocks of a module are replaced.
        filter_fn: Further restricts them: `(block, qualified name) -> bool`.
        example: An input (N, C, H, W) to find shapes with; `None` takes timm's input size or 224 pixels square.

    Returns:
        The same model.

    Raises:
        ValueError: Nothing to convert, a 1D or 3D network, a forward of several inputs, MoD blocks already there, a
            wrapped model, no chosen block that can be shrunken (or, where `placement` names them, one that cannot).
            The model is then what it was.

    Examples:
        >>> import timm
        >>> model = convert_(timm.create_model("resnet50"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        18105949
    """
    made, built = build_mod_blocks(model, config, filter_fn, example)
    refused = [block for block in made.blocks if block.chosen and block.k is None]
    reasons = [f"{block.name} ({block.kind}): {block.reason}" for block in refused]
    if not built or (reasons and isinstance(config.placement, tuple)):
        raise ValueError(f"{made.network}: these blocks cannot be MoD blocks: {'; '.join(reasons)}")
    install_(model, built, example)
    names = ", ".join(made.mod_blocks)
    _log.info("converted %d blocks of %s to MoD blocks, c = %d: %s", len(built), made.network, made.c, names)
    if reasons:
        kept = "; ".join(reasons)
        _log.warning("%d of %s's blocks stay standard blocks: %s", len(reasons), made.network, kept)
    return model


def control_(model: ModelT) -> ModelT:
    """Replace every MoD block by the identity, in place: the control, which shows what MoD blocks give and cost.

    Returns:
        The same model.

    Raises:
        ValueError: The model has no MoD block, or is wrapped.

    Examples:
        >>> import timm
        >>> model = control_(convert_(timm.create_model("resnet50")))
        >>> sum(parameter.numel() for parameter in model.parameters())
        17112360
    """
    check_bare(model)
    blocks = mod_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no MoD block; convert it with cnnmod.convert_ first")
    swap_(model, {name: Skip(block.config).train(block.training) for name, block in blocks.items()})
    return model


def mod_blocks(model: nn.Module) -> dict[str, MoDBlock]:
    """The model's MoD blocks by qualified name, in the network's order.

    Examples:
        >>> import timm
        >>> list(mod_blocks(convert_(timm.create_model("resnet18"))))
        ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, MoDBlock)}


def install_(model: nn.Module, built: Sequence[tuple[Block, MoDBlock]], example: Tensor | None) -> dict[str, nn.Module]:
    """Put MoD blocks in their blocks' places, try the network, and return what stood there, for `swap_`.

    After a `ValueError` the model is what it was.
    """
    layers = {id(block.layer): block.name for block, _ in built}
    for holder, module in model.named_modules():
        for attribute, value in vars(module).items():
            for item in value if isinstance(value, (list, tuple)) else ():
                if id(item) in layers:
                    where = f"{holder}.{attribute}" if holder else attribute
                    raise ValueError(
                        f"{layers[id(item)]} is also in the plain list {where}, where it cannot be replaced"
                    )
    replacements: dict[str, nn.Module] = {}
    for block, replacement in built:
        replacements[block.name] = replacement
        replacements |= {name: nn.Identity().train(block.layer.training) for name in block.rest}
    replaced = swap_(model, replacements)
    try:
        meta_forward(model, example)
    except BaseException:  # an interrupt too
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


class Skip(nn.Identity):
    """What stands in a control where a MoD block of this `config` was: the identity, whatever else it is given."""

    def __init__(self, config: MoDConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002  nn.Identity's name
        """(N, C, H, W) → the same tensor."""
        return input
