"""dilate_: limit the output stride of a network by dilating its convolutions."""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from cnnmod.method.passes import Pass
from cnnmod.method.trace import example_for, trace


def dilate_(network: nn.Module, output_stride: int) -> nn.Module:
    """Limit the network's output stride, in place.

    Convolutions that would increase the stride beyond this limit get stride 1. The convolutions after them are dilated,
    so that their receptive fields do not change. This includes the convolutions in MoD blocks.

    Raises:
        ValueError: If a pooling layer increases the stride beyond the limit, or a convolution does not pad both sides.

    Examples:
        >>> import timm
        >>> network = dilate_(timm.create_model("resnet18"), 8)
        >>> network.layer4[1].conv1.dilation
        (4, 4)
    """
    for name, conv, dilation in trace(network, partial(_dilations, example_for(network), output_stride)):
        if max(conv.kernel_size) == 1 or (dilation == 1 and conv.stride == (1, 1)):
            conv.stride = (1, 1)
            continue
        pads = tuple(step * (size - 1) / 2 for step, size in zip(conv.dilation, conv.kernel_size, strict=True))
        if conv.padding != pads:
            raise ValueError(
                f"{name} (kernel {conv.kernel_size}, padding {conv.padding}) cannot be dilated for the output stride "
                f"{output_stride}: its padding does not preserve the size"
            )
        conv.stride = (1, 1)
        conv.dilation = (conv.dilation[0] * dilation, conv.dilation[1] * dilation)
        conv.padding = (int(pads[0]) * dilation, int(pads[1]) * dilation)
    return network


def _dilations(example: Tensor, output_stride: int, run: Pass) -> list[tuple[str, nn.Conv2d, int]]:
    """Return the convolutions whose input has at least the output stride, each with its name and dilation.

    The dilation is the stride of the convolution's input divided by the output stride.
    """
    changes: list[tuple[str, nn.Conv2d, int]] = []

    def record(name: str, layer: nn.Module, args: tuple[Any, ...], _: dict[str, Any], output: Any) -> None:
        if not isinstance(layer, (nn.Conv2d, _MaxPoolNd, _AvgPoolNd)):
            return
        before = stride_of(example, args[0].shape[2])
        if before >= output_stride and isinstance(layer, nn.Conv2d):
            changes.append((name, layer, before // output_stride))
        elif before >= output_stride and layer.stride not in (1, (1, 1)) and output.shape[2] > 1:
            raise ValueError(
                f"{name} ({type(layer).__name__}) makes the stride larger than output_stride = {output_stride}"
            )

    run(record)
    return changes


def stride_of(example: Tensor, rows: int) -> int:
    """Return the stride of a feature map with this number of rows, rounded to a power of 2."""
    return 2 ** round(math.log2(example.shape[2] / rows))
