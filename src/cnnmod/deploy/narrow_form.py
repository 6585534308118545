"""The narrow MoD block for eager PyTorch on a CPU."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cnnmod.deploy.forms import EagerForm, Form, Handles
from cnnmod.deploy.live import DirectLayers
from cnnmod.deploy.pointwise import PointwiseConv
from cnnmod.method.blocks import MoDBlock


class NarrowForm(EagerForm):
    """The narrow MoD block (`MoDConfig.narrow`) for eager PyTorch: it reads and writes the feature map in place.

    In float32 on a CPU, the first convolution reads a slice of the feature map, a final 1×1 convolution is accumulated
    into the feature map by a matrix product, and a ReLU after the sum works in place. In all other cases, the block
    runs as `EagerForm`.
    """

    handles: ClassVar[Handles] = {
        **Form.handles,
        "select": ("first",),
        "scale": ("none",),
        "fuse_to": ("all",),
        "identity_start": (False,),
    }

    def __init__(self, block: MoDBlock) -> None:
        super().__init__(block)
        assert isinstance(self.conv_block, nn.Sequential)
        self.chain = tuple(_without_identities(self.conv_block))
        self.direct_layers = DirectLayers(self, "conv_block", "activation")

    @classmethod
    def accepts(cls, block: MoDBlock) -> bool:
        """See `Form.accepts`. The Conv-Block must be a chain that starts with a convolution."""
        if not super().accepts(block) or type(block.conv_block) is not nn.Sequential:
            return False
        first, *others = _without_identities(block.conv_block) or [None]
        return type(first) in (nn.Conv2d, PointwiseConv) and len(others) > 0

    def overwrite(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """See `EagerForm.overwrite`."""
        if not (
            x_NCHW.dtype == torch.float32
            and self.is_plain_call("cpu", x_NCHW, args, kwargs)
            and self.direct_layers.are_unchanged()  # a hook could keep the input of a layer
            and not self._records_gradients()
        ):
            return super().overwrite(x_NCHW, *args, **kwargs)
        *layers, last = self.chain
        y_NKHW = x_NCHW.narrow(1, 0, self.k)
        for layer in layers:
            y_NKHW = layer(y_NKHW)
        if isinstance(last, PointwiseConv) and y_NKHW.dtype == x_NCHW.dtype:
            last.add_to_(x_NCHW, y_NKHW)
        else:
            x_NCHW.add_(last(y_NKHW).to(x_NCHW.dtype))
        return x_NCHW.relu_() if type(self.activation) is nn.ReLU else self.activation(x_NCHW)

    def _records_gradients(self) -> bool:
        """Return whether autograd needs the input of the first convolution, which is overwritten later."""
        return torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())


def _without_identities(chain: nn.Sequential) -> list[nn.Module]:
    return [layer for layer in chain if type(layer) is not nn.Identity]
