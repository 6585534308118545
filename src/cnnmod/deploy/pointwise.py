"""Small 1×1 convolutions as matrix products."""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from cnnmod.deploy.live import is_plain
from cnnmod.method.convert import swap_


class PointwiseConv(nn.Module):
    """A 1×1 convolution; on a CPU over several images a matrix product: with few channels much faster than oneDNN's."""

    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As the convolution."""
        images, _, height, width = x_NCHW.shape
        if images == 1 or not x_NCHW.is_cpu:
            return torch.conv2d(x_NCHW, self.weight, self.bias)
        weight = self.weight.flatten(1).expand(images, -1, -1)
        if self.bias is None:
            return torch.bmm(weight, x_NCHW.flatten(2)).view(images, -1, height, width)
        return torch.baddbmm(self.bias[:, None], weight, x_NCHW.flatten(2)).view(images, -1, height, width)


def with_pointwise_products(conv_block: nn.Module) -> nn.Module:
    """The Conv-Block, its small 1×1 convolutions as products, in place; a lone one comes back as another module."""
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
