"""Segmentation: torchvision's FCN and DeepLabV3 with any backbone, and the paper's networks for Cityscapes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCN, FCNHead

from cnnmod.method.config import MoDConfig
from cnnmod.networks.features import open_backbone
from cnnmod.networks.registry import register

_STRIDE = 8


class DeepFCNHead(nn.Module):
    """The head of the paper's FCN.

    It has two 3×3 convolutions, a third convolution on the concatenation of their output with the backbone's feature
    map, dropout and a classifier.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv_norm_act(in_channels, channels), _conv_norm_act(channels, channels))
        self.conv_cat = _conv_norm_act(in_channels + channels, channels)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) to logits (N, classes, H, W)."""
        y_NCHW = self.conv_cat(torch.cat([x_NCHW, self.convs(x_NCHW)], dim=1))
        return self.classifier(self.dropout(y_NCHW))


@register(takes_config=False)
def fcn(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    aux: bool = True,
    head: Literal["paper", "torchvision"] = "paper",
    head_channels: int = 512,
    backbone_args: Mapping[str, Any] = MappingProxyType({}),
) -> FCN:
    """Build a fully convolutional network for segmentation, with output stride 8.

    The result is torchvision's class. It maps (N, 3, H, W) to a dictionary: `"out"` has the logits
    (N, num_classes, H, W), and `"aux"` has the logits of the auxiliary head, whose loss helps training. `cnnmod.lower`
    and `cnnmod.export` remove the auxiliary head.

    Args:
        backbone: A classifier, dense or with MoD blocks: a name for `cnnmod.networks.build`, or a module, which is
            changed in place.
        num_classes: The number of classes.
        aux: Whether the network has an auxiliary head on the second-last stage.
        head: The paper's head, or torchvision's head, which has one convolution before the classifier.
        head_channels: The width of the paper's head.
        backbone_args: The arguments for building the backbone by name.

    Raises:
        ValueError: If the head is not accepted, the backbone cannot be dilated to stride 8 or has only one stage, or
            `build` raises the error.

    Examples:
        >>> model = fcn("resnet50_mod", 19, aux=False)
        >>> sum(parameter.numel() for parameter in model.parameters())
        39662728
    """
    if head not in ("paper", "torchvision"):
        raise ValueError(f"head must be 'paper' or 'torchvision', not {head!r}")

    def make_head(channels: int) -> nn.Module:
        return (
            FCNHead(channels, num_classes)
            if head == "torchvision"
            else DeepFCNHead(channels, num_classes, head_channels)
        )

    return FCN(*_parts(backbone, backbone_args, num_classes, aux, make_head))


@register(takes_config=False)
def deeplabv3(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    aux: bool = True,
    backbone_args: Mapping[str, Any] = MappingProxyType({}),
) -> DeepLabV3:
    """Build a DeepLabV3 with output stride 8.

    The result is torchvision's class with torchvision's head. The other arguments, the output and the errors are those
    of `fcn`.
    """
    return DeepLabV3(
        *_parts(backbone, backbone_args, num_classes, aux, lambda channels: DeepLabHead(channels, num_classes))
    )


@register(takes_config=False)
def fcn_resnet50(num_classes: int = 19, **kwargs: Any) -> FCN:
    """FCN with dense ResNet50 and the paper's head: 47.114 M parameters without the auxiliary head."""
    return fcn("resnet50", num_classes, **kwargs)


@register(takes_config=True)
def fcn_resnet50_mod(num_classes: int = 19, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FCN:
    """FCN-ResNet50-MoD: 39.663 M parameters without the auxiliary head."""
    return fcn("resnet50_mod", num_classes, backbone_args={"config": config}, **kwargs)


@register(takes_config=True)
def fcn_resnet75_mod(num_classes: int = 19, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FCN:
    """FCN-ResNet75-MoD: 44.657 M parameters without the auxiliary head."""
    return fcn("resnet75_mod", num_classes, backbone_args={"config": config}, **kwargs)


@register(takes_config=True)
def fcn_resnet86_mod(num_classes: int = 19, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FCN:
    """FCN-ResNet86-MoD: 47.154 M parameters without the auxiliary head."""
    return fcn("resnet86_mod", num_classes, backbone_args={"config": config}, **kwargs)


def _parts(
    backbone: str | nn.Module,
    backbone_args: Mapping[str, Any],
    num_classes: int,
    aux: bool,
    make_head: Callable[[int], nn.Module],
) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """Return the three parts of torchvision's classes: the backbone, the head and the auxiliary head."""
    opened = open_backbone(backbone, backbone_args, _STRIDE)
    if len(opened.stages) < 2:
        raise ValueError(f"the backbone must have at least 2 stages for segmentation, not {len(opened.stages)}")
    second_last, last = opened.stages[-2:]
    maps = opened.maps({second_last: "aux", last: "out"} if aux else {last: "out"})
    return maps, make_head(last.channels), FCNHead(second_last.channels, num_classes) if aux else None


def _conv_norm_act(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )
