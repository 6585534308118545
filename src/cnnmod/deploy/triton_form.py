"""The MoD block for inference on a GPU, with Triton kernels before and after the Conv-Block."""

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnmod.deploy.forms import EagerForm, Form, Handles
from cnnmod.deploy.live import DirectLayers, has_plain_selector, selector_weights
from cnnmod.method.blocks import MoDBlock

logger = logging.getLogger("cnnmod")
_DEVICE = "cuda"  # the device of the kernels; tests set it to "cpu", where Triton interprets them
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Blocks with more channels, and feature maps of one pixel, use several operators. Their combination once caused an
# illegal memory access (one H100, Triton 3.6). The cause is not known.
_MOST_CHANNELS = 64


class TritonForm(EagerForm):
    """The MoD block for eager PyTorch. On a GPU, it is two operators and the Conv-Block, else several operators.

    The operators support float32, float16 and bfloat16, contiguous and channels last, but not autocast.
    """

    handles: ClassVar[Handles] = {**Form.handles, "select": ("learned",)}

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        self.by_index = block.config.order == "index"
        self.direct_selector = DirectLayers(self, "selector")

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """See `Form.accepts`. Triton's kernels must run on the device of the block's weights."""
        if not (super().accepts(block) and has_plain_selector(block) and block.k <= _MOST_CHANNELS):
            return False
        weight = block.selector.reduce.weight
        return weight.device.type == _DEVICE and runs_on(weight.device)

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, H, W) → the same tensor, changed in place. The caller must hold its only reference."""
        if not self._fits(x_NCHW) or (arguments := self.arguments()) is None:
            return super().overwrite(x_NCHW, *args, **kwargs)
        x_NKHW, score_NK, index_NK = torch.ops.cnnmod.select_and_gather(x_NCHW, *arguments)
        y_NKHW = self.conv_block(x_NKHW, *args, **kwargs)
        torch.ops.cnnmod.fuse_(x_NCHW, y_NKHW, score_NK, index_NK if self.to_original else None, self.start)
        return x_NCHW

    def arguments(self) -> Sequence[Any] | None:
        """Return the arguments of `select_and_gather` after the images, with the current weights.

        Return `None` if the selector is no longer a plain selector.
        """
        if not self.direct_selector.are_unchanged() or (weights := selector_weights(self)) is None:
            return None
        return (*weights, self.gain_K, self.k, self.by_index)

    def _fits(self, x_NCHW: Tensor) -> bool:
        return (
            x_NCHW.device.type == _DEVICE
            and x_NCHW.dtype in _DTYPES
            and x_NCHW.dim() == 4
            and x_NCHW.size(1) == self.channels
            and (x_NCHW.is_contiguous() or x_NCHW.is_contiguous(memory_format=torch.channels_last))
            and x_NCHW.size(2) * x_NCHW.size(3) > 1
            and 0 < x_NCHW.numel() < 2**31 * x_NCHW.size(0)  # the kernels use 32-bit indices within an image
            and not x_NCHW.requires_grad
            and not torch.is_autocast_enabled(_DEVICE)
            and runs_on(x_NCHW.device)
        )


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Return whether a kernel runs on the device. Log a warning if it does not."""
    try:
        importlib.import_module("cnnmod.deploy.triton_kernels")
        x_NCHW = torch.zeros(1, 1, 2, 2, device=device)
        torch.ops.cnnmod.fuse_(x_NCHW, x_NCHW + 1, torch.ones(1, 1, device=device), None, 0)
    except Exception as error:  # for example no Triton, no C compiler, or a GPU that Triton does not support
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("Triton's kernels do not run on %s (%s); MoD blocks run as several operators", device, reason)
        return False
    return True
