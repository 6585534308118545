"""recorded_selection: record the channels that the MoD blocks of a network select."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.convert import mod_blocks


@contextmanager
def recorded_selection(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the selected channels inside the context.

    Yields:
        For each MoD block by name, a list to which every call of the block adds its channel indices (N, K).

    Examples:
        >>> import timm, torch
        >>> from cnnmod import convert_
        >>> model = convert_(timm.create_model("resnet18")).eval()
        >>> with recorded_selection(model) as selected:
        ...     _ = model(torch.rand(2, 3, 64, 64))
        >>> {name: indices[0].shape for name, indices in selected.items()}["layer4.1"]
        torch.Size([2, 8])
    """
    blocks = mod_blocks(model)
    selected: dict[str, list[Tensor]] = {name: [] for name in blocks}
    hooks = [block.register_forward_pre_hook(partial(_record, selected[name])) for name, block in blocks.items()]
    try:
        yield selected
    finally:
        for hook in hooks:
            hook.remove()


def _record(selected: list[Tensor], block: nn.Module, args: Any) -> None:
    assert isinstance(block, MoDBlock)
    x_NCHW = args[0].movedim(3, 1) if block.layout == "NHWC" else args[0]
    selected.append(block.select(x_NCHW)[1].expand(len(x_NCHW), -1).cpu())
