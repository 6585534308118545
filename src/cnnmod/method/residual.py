"""Remove a block's own residual connection, for `MoDConfig(residual=False)`.

A residual connection is not a module that can be deleted, but blocks have a switch for it: a flag, or a layer on the
shortcut. The result is tested: with all weights zero, the output of the block must not depend on its input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cnnmod.method.trace import isolated

_FLAGS = ("has_skip", "use_res_connect")  # InvertedResidual of timm and of torchvision
_SHORTCUTS = ("downsample", "shortcut")  # the ResNet blocks of both; timm's ConvNeXtBlock
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


class NoShortcut(nn.Module):
    """A shortcut layer that returns zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(1)


def drop_residual_(block: nn.Module, shape: Sequence[int]) -> None:
    """Remove the residual connection of a newly built block, in place. A block without one stays unchanged.

    Norm weights that are initialized to zero are set to one. Without the residual, zeros would make the block's output
    zero and, through a ReLU, its gradient too.

    Args:
        block: The block.
        shape: The shape of its input, (N, C, H, W) or (N, H, W, C).

    Raises:
        ValueError: If the residual connection has no known switch, or the block does not run on a single input.
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
            f"residual=False is not supported for {type(block).__name__}: none of the attributes "
            f"{', '.join((*_FLAGS, *_SHORTCUTS))} switches its residual connection off"
        )
    for norm in block.modules():
        if isinstance(norm, _NORMS) and norm.weight is not None and not norm.weight.is_meta and not norm.weight.any():
            nn.init.ones_(norm.weight)


def has_residual(block: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the output depends on the input when all weights are zero."""
    ones, twos = _outputs_with_zero_weights(block, shape)
    return not torch.equal(ones, twos)


def adds_to_its_input(block: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the output is equal to the input when all weights are zero.

    This is true for x + f(x), and false for x · g(x), as in squeeze-and-excitation.
    """
    ones, twos = _outputs_with_zero_weights(block, shape)
    return bool((ones == 1).all() and (twos == 2).all())


def _outputs_with_zero_weights(block: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the block's outputs for an input of ones and an input of twos, with all weights zero."""
    like = next(block.parameters(), torch.empty(0))
    device = "cpu" if like.is_meta else like.device
    state = {name: torch.zeros_like(tensor, device=device) for name, tensor in block.state_dict().items()}
    inputs = [torch.full(tuple(shape), value, dtype=like.dtype, device=device) for value in (1.0, 2.0)]
    with isolated(block):
        try:
            first, second = (functional_call(block, state, (value,)) for value in inputs)
        except Exception as error:  # the forward of another library may raise anything
            raise ValueError(
                f"{type(block).__name__} does not run on a single input of shape {tuple(shape)}: {error}"
            ) from error
    return first, second
