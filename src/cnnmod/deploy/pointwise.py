"""Compute small 1×1 convolutions as matrix products."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cnnmod.deploy.live import is_plain
from cnnmod.method.convert import swap_


class PointwiseConv(nn.Module):
    """A 1×1 convolution that is a matrix product on a CPU.

    With few input or output channels, the product is usually faster than oneDNN's convolution.
    """

    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        if not x_NCHW.is_cpu:
            return torch.conv2d(x_NCHW, self.weight, self.bias)
        weight = self.weight.flatten(1)
        if x_NCHW.stride(1) == 1:  # channels last; a slice of channels is copied, since products of it are often slower
            return linear(x_NCHW.movedim(1, 3).contiguous(), weight, self.bias).movedim(3, 1)
        images, _, height, width = x_NCHW.shape
        shape, weight = (images, len(weight), height, width), weight.expand(images, -1, -1)
        if self.bias is None:
            return torch.bmm(weight, x_NCHW.flatten(2)).view(shape)
        return torch.baddbmm(self.bias[:, None], weight, x_NCHW.flatten(2)).view(shape)

    def add_to_(self, sum_NCHW: Tensor, x_NCHW: Tensor) -> None:
        """Add the convolution of x to another tensor in place, without allocating its output.

        Args:
            sum_NCHW: (N, output channels, H, W), contiguous or channels last, on a CPU.
            x_NCHW: (N, input channels, H, W), of the same dtype.
        """
        weight, bias = self.weight.flatten(1), self.bias
        if sum_NCHW.is_contiguous():
            sum_NCP = sum_NCHW.flatten(2)
            sum_NCP.baddbmm_(weight.expand(len(x_NCHW), -1, -1), x_NCHW.flatten(2))
            if bias is not None:
                sum_NCP.add_(bias[:, None])
        else:
            sum_PC = sum_NCHW.movedim(1, 3).view(-1, len(weight))  # raises if this is not a view
            sum_PC.addmm_(x_NCHW.movedim(1, 3).flatten(0, 2), weight.t())
            if bias is not None:
                sum_PC.add_(bias)


def with_pointwise_products(conv_block: nn.Module) -> nn.Module:
    """Replace the small 1×1 convolutions of a Conv-Block by products, in place.

    If the Conv-Block itself is such a convolution, another module is returned.
    """
    pointwise = {name: PointwiseConv(layer) for name, layer in conv_block.named_modules() if _is_small_pointwise(layer)}
    if "" in pointwise:
        return pointwise[""]
    swap_(conv_block, pointwise)
    return conv_block


def _is_small_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and is_plain(layer)
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) <= 64
    )
