"""Compute small 1×1 convolutions as matrix products."""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from cnnmod.deploy.live import is_plain
from cnnmod.method.convert import swap_


class PointwiseConv(nn.Module):
    """A 1×1 convolution that is a matrix product for several images on a CPU.

    With few channels, the product is much faster than oneDNN's convolution.
    """

    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        images, _, height, width = x_NCHW.shape
        if images == 1 or not x_NCHW.is_cpu:
            return torch.conv2d(x_NCHW, self.weight, self.bias)
        shape = (images, len(self.weight), height, width)
        weight = self.weight.flatten(1).expand(images, -1, -1)
        if self.bias is None:
            return torch.bmm(weight, x_NCHW.flatten(2)).view(shape)
        return torch.baddbmm(self.bias[:, None], weight, x_NCHW.flatten(2)).view(shape)


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
        and max(layer.in_channels, layer.out_channels) <= 64
    )
