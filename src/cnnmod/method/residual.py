"""Taking a block's own residual connection away, for `MoDConfig(residual=False)`.

A residual has no module of its own to delete. What blocks have is a switch: a flag, or a layer on the shortcut. A
switch is accepted only if it works: with all weights zero, the block's output may no longer depend on its input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cnnmod.method.trace import at_rest

_FLAGS = ("has_skip", "use_res_connect")  # InvertedResidual: timm's and torchvision's
_SHORTCUTS = ("downsample", "shortcut")  # ResNet blocks of both; timm's ConvNeXtBlock
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


class NoShortcut(nn.Module):
    """Stands on a shortcut and lets nothing pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(1)


def drop_residual_(block: nn.Module, shape: Sequence[int]) -> None:
    """Take a fresh block's residual away, in place; a block without one stays as it is.

    Norms that start at zero do so for the residual's sake. Without it their block would put out zeros, and through a
    ReLU get no gradient, so they start at one.

    Args:
        block: The block.
        shape: What it takes, (N, C, H, W) or (N, H, W, C).

    Raises:
        ValueError: The block has a residual, but no switch that is known here; or it does not run alone.
    """
    if not has_residual(block, shape):
        return
    for name in _FLAGS:
        if getattr(block, name, None) is True:
            setattr(block, name, False)
    for name in _SHORTCUTS:
        if hasattr(block, name):
            setattr(block, name, NoShortcut())
    if has_residual(block, shape):
        raise ValueError(
            f"residual=False: {type(block).__name__} has a residual connection that is not switched by "
            f"{', '.join((*_FLAGS, *_SHORTCUTS))}"
        )
    for norm in block.modules():
        if isinstance(norm, _NORMS) and norm.weight is not None and not norm.weight.is_meta and not norm.weight.any():
            nn.init.ones_(norm.weight)


def has_residual(block: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the output depends on the input when all weights are zero."""
    ones, twos = _without_weights(block, shape)
    return not torch.equal(ones, twos)


def adds_to_its_input(block: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the output is the input when all weights are zero: x + f(x), but not the x · g(x) of squeeze-excite."""
    ones, twos = _without_weights(block, shape)
    return bool((ones == 1).all() and (twos == 2).all())


def _without_weights(block: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What the block makes of ones and of twos when all its weights are zero."""
    like = next(block.parameters(), torch.empty(0))
    device = "cpu" if like.is_meta else like.device
    state = {name: torch.zeros_like(tensor, device=device) for name, tensor in block.state_dict().items()}
    with at_rest(block):
        try:
            first, second = (
                functional_call(block, state, (torch.full(tuple(shape), value, dtype=like.dtype, device=device),))
                for value in (1.0, 2.0)
            )
        except Exception as error:  # whatever a foreign forward raises
            raise ValueError(f"{type(block).__name__} does not run on {tuple(shape)} alone: {error}") from error
    return first, second
