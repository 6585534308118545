"""Skip: the identity in place of a block."""

from typing import Any

from torch import Tensor, nn

from cnnmod.method.config import MoDConfig


class Skip(nn.Identity):
    """The identity in place of a block. It returns its input and ignores all other arguments.

    Args:
        config: In a control, the config of the MoD block that it replaces. `None` for a block that `convert_` skips.
    """

    def __init__(self, config: MoDConfig | None = None) -> None:
        super().__init__()
        self.config = config

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the input tensor (N, C, H, W) itself."""
        return input


def skipped_blocks(model: nn.Module) -> list[str]:
    """Return the names of the blocks that `convert_` has skipped, in the order of `named_modules`."""
    return [name for name, layer in model.named_modules() if isinstance(layer, Skip) and layer.config is None]
