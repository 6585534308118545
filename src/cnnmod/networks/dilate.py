"""dilate_: a network whose feature maps stay at a stride."""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from cnnmod.method.passes import Run
from cnnmod.method.trace import example_for, trace


def dilate_(network: nn.Module, output_stride: int) -> nn.Module:
    """Keep the feature map at a stride, in place: convolutions that would halve it further lose their own stride, and
    those behind are dilated, so that they see what they saw before. MoD blocks' are dilated alike.

    Raises:
        ValueError: What halves the map there is a pooling, or a convolution that does not pad both sides.

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
                f"{name} (kernel {conv.kernel_size}, padding {conv.padding}) cannot be dilated for stride "
                f"{output_stride}: it does not pad both sides"
            )
        conv.stride = (1, 1)
        conv.dilation = (conv.dilation[0] * dilation, conv.dilation[1] * dilation)
        conv.padding = (int(pads[0]) * dilation, int(pads[1]) * dilation)
    return network


def _dilations(example: Tensor, output_stride: int, run: Run) -> list[tuple[str, nn.Conv2d, int]]:
    """The convolutions from the stride on, each with what the stride before it is more than that."""
    changes: list[tuple[str, nn.Conv2d, int]] = []

    def note(name: str, layer: nn.Module, args: tuple[Any, ...], _: dict[str, Any], output: Any) -> None:
        if not isinstance(layer, (nn.Conv2d, _MaxPoolNd, _AvgPoolNd)):
            return
        before = stride_of(example, args[0].shape[2])
        if before >= output_stride and isinstance(layer, nn.Conv2d):
            changes.append((name, layer, before // output_stride))
        elif before >= output_stride and layer.stride not in (1, (1, 1)) and output.shape[2] > 1:
            raise ValueError(f"{name} ({type(layer).__name__}) makes the stride more than {output_stride}")

    run(note)
    return changes


def stride_of(example: Tensor, rows: int) -> int:
    """How many rows of the image are one of a map that has so many."""
    return 2 ** round(math.log2(example.shape[2] / rows))
