"""A small ResNet for CIFAR, whose runs take minutes on one CPU core.

The networks of the price list are variants of it: other widths, other depths, squeeze-and-excitation, MoD blocks. Name
it in a recipe as `small_resnet:small_resnet`, with the folder benchmarks on the path.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

SE = Literal["none", "timm", "one"]


class DoubleSigmoid(nn.Module):
    """A gate from 0 to 2. Unlike a sigmoid, it starts near 1, so that a block starts as it would without the gate."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.sigmoid()


def small_resnet(
    channels: Sequence[int] = (16, 32, 64),
    layers: Sequence[int] = (4, 4, 4),
    se: SE = "none",
    num_classes: int = 100,
    bottleneck: bool = False,
) -> nn.Sequential:
    """Return a ResNet with a 3×3 stem of stride 2.

    Args:
        channels: The width of each module.
        layers: The number of blocks of each module.
        se: `"timm"` and `"one"` give each block squeeze-and-excitation, after its last norm. With `"timm"`, its gate is
            a sigmoid, initialized as in timm's ResNet. It starts at 0.5, so each residual branch is halved. With
            `"one"`, the gate is twice a sigmoid and starts at 1.
        num_classes: The number of classes.
        bottleneck: Build Bottlenecks instead of BasicBlocks. The width of a module is then that of its 3×3
            convolutions.
    """
    block = Bottleneck if bottleneck else BasicBlock
    width = channels[0]
    modules: dict[str, nn.Module] = {
        "stem": nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    }
    # timm calls any function with the width; its annotation names a class.
    attention: Any = None
    gate = DoubleSigmoid if se == "one" else nn.Sigmoid
    if se != "none":
        attention = partial(SEModule, rd_ratio=1 / 4, rd_divisor=1, gate_layer=gate)
    for number, (planes, count) in enumerate(zip(channels, layers, strict=True)):
        blocks: list[nn.Module] = []
        for position in range(count):
            stride = 2 if number and not position else 1
            shortcut = None
            outputs = planes * block.expansion
            if stride > 1 or width != outputs:
                shortcut = nn.Sequential(nn.Conv2d(width, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            blocks.append(block(width, planes, stride, shortcut, attn_layer=attention))
            width = outputs
        modules[f"module{number + 1}"] = nn.Sequential(*blocks)
    modules |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(width, num_classes)}
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    _initialize(model, se)
    return model


def _initialize(model: nn.Module, se: SE) -> None:
    """Initialize as timm's ResNet does: He for convolutions, and 0 for the last norm of each residual branch."""
    excite = {layer for module in model.modules() if isinstance(module, SEModule) for layer in (module.fc1, module.fc2)}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if se == "one" and module in excite and module.bias is not None:
                nn.init.zeros_(module.bias)  # the weights stay as torch draws them
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock | Bottleneck):
            module.zero_init_last()
