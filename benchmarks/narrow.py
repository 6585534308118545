"""The blocks of benchmarks/pays/cifar100-narrow.json: a prototype of `MoDConfig(fuse_to="all")`.

The last convolution of a narrow Bottleneck writes all C channels. A test compares the prototype with the MoD blocks.
"""

from typing import Any, Literal

from small_resnet import small_resnet
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from cnnmod.method.selector import ChannelSelector

Gate = Literal["none", "first", "all"]


class NarrowBottleneck(nn.Module):
    """A residual Bottleneck that reads the first C / 4 channels, has a quarter of the width, and writes all channels.

    Args:
        channels: C, the number of input and output channels.
        gate: Which channels the scores are computed from: `"all"`, the `"first"` C / 4, or `"none"` for no scores.
        reduction: The selector's hidden width is C / reduction.
    """

    def __init__(self, channels: int, gate: Gate, reduction: int) -> None:
        super().__init__()
        self.k = k = channels // 4
        width = max(1, k // 4)
        self.candidates = {"none": 0, "first": k, "all": channels}[gate]
        self.selector = ChannelSelector(self.candidates, channels // reduction) if self.candidates else None
        self.branch = nn.Sequential(
            nn.Conv2d(k, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 1, bias=False),
            last := nn.BatchNorm2d(channels),
        )
        for layer in self.branch:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(last.weight)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x_NKHW = x_NCHW[:, : self.k]
        if self.selector is not None:
            score_NK = self.selector(x_NCHW[:, : self.candidates])[:, : self.k].sigmoid()
            x_NKHW = (x_NKHW * score_NK[:, :, None, None]).to(x_NCHW.dtype)
        return self.activation(x_NCHW + self.branch(x_NKHW))


def narrow_(model: nn.Module, gate: Gate = "none", reduction: int = 16) -> nn.Module:
    """Replace every second Bottleneck of each module by a narrow block, in place."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for position, block in list(enumerate(module)):
                if isinstance(block, Bottleneck) and position % 2:
                    module[position] = NarrowBottleneck(block.conv3.out_channels, gate, reduction)
    return model


def small_narrow(gate: Gate = "none", reduction: int = 4, **kwargs: Any) -> nn.Module:
    """Return `small_resnet` with narrow blocks."""
    return narrow_(small_resnet(**kwargs), gate, reduction)
