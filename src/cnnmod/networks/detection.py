"""Detection: torchvision's Faster R-CNN and RetinaNet with any backbone, and the paper's networks for VOC."""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import swap_
from cnnmod.networks.features import open_backbone
from cnnmod.networks.registry import register

_BOX_PIXELS = 7**2  # torchvision pools the features of each box to 7 × 7


@register(takes_config=False)
def faster_rcnn(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    frozen_norms: bool = False,
    pyramid_channels: int = 256,
    head_channels: int = 1024,
    backbone_args: Mapping[str, Any] = MappingProxyType({}),
    **kwargs: Any,
) -> FasterRCNN:
    """Build a Faster R-CNN with a feature pyramid over the backbone's stages of strides 4 to 32.

    The result is torchvision's class. The input is a list of images (3, H, W) of different sizes, or a batch
    (N, 3, H, W), with values from 0 to 1. The output for each image is its boxes (x1, y1, x2, y2) in pixels, labels and
    scores. In training mode, the network takes targets as a second argument and returns losses.

    Args:
        backbone: A classifier, dense or with MoD blocks: a name for `cnnmod.networks.build`, or a module, which is
            changed in place.
        num_classes: The number of classes, including the background, which is class 0.
        frozen_norms: Whether to freeze the backbone's batch norms, as is usual with pretrained weights.
        pyramid_channels: The number of channels of the pyramid.
        head_channels: The width of the two layers that process each box.
        backbone_args: The arguments for building the backbone by name.
        kwargs: Arguments of torchvision's `FasterRCNN`: `min_size`, `max_size`, anchors, …

    Raises:
        ValueError: If the backbone does not have these stages, its norms cannot be frozen, or `build` raises the error.

    Examples:
        >>> model = faster_rcnn("resnet18_mod", 21, min_size=600, max_size=1000)
        >>> type(model).__module__
        'torchvision.models.detection.faster_rcnn'
    """
    return FasterRCNN(
        _pyramid(backbone, backbone_args, (4, 8, 16, 32), pyramid_channels, LastLevelMaxPool(), frozen_norms),
        box_head=TwoMLPHead(pyramid_channels * _BOX_PIXELS, head_channels),
        box_predictor=FastRCNNPredictor(head_channels, num_classes),
        **kwargs,
    )


@register(takes_config=False)
def retinanet(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    frozen_norms: bool = False,
    pyramid_channels: int = 256,
    backbone_args: Mapping[str, Any] = MappingProxyType({}),
    **kwargs: Any,
) -> RetinaNet:
    """Build a RetinaNet with a feature pyramid over the backbone's stages of strides 8 to 32.

    The result is torchvision's class. The arguments, inputs, outputs and errors are those of `faster_rcnn`.
    """
    extra_levels = LastLevelP6P7(pyramid_channels, pyramid_channels)
    pyramid = _pyramid(backbone, backbone_args, (8, 16, 32), pyramid_channels, extra_levels, frozen_norms)
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))  # the anchors of torchvision's retinanet builders
    settings: dict[str, Any] = {"anchor_generator": anchors} | kwargs
    return RetinaNet(pyramid, num_classes, **settings)


@register(takes_config=False)
def faster_rcnn_resnet50(num_classes: int = 21, **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN with dense ResNet50, for images of 600 × 1000 pixels."""
    return faster_rcnn("resnet50", num_classes, **(_SIZES | kwargs))


@register(takes_config=True)
def faster_rcnn_resnet50_mod(num_classes: int = 21, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN with ResNet50-MoD, for images of 600 × 1000 pixels."""
    return faster_rcnn("resnet50_mod", num_classes, backbone_args={"config": config}, **(_SIZES | kwargs))


@register(takes_config=True)
def faster_rcnn_resnet75_mod(num_classes: int = 21, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN with ResNet75-MoD, for images of 600 × 1000 pixels."""
    return faster_rcnn("resnet75_mod", num_classes, backbone_args={"config": config}, **(_SIZES | kwargs))


@register(takes_config=True)
def faster_rcnn_resnet86_mod(num_classes: int = 21, config: MoDConfig = MoDConfig(), **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN with ResNet86-MoD, for images of 600 × 1000 pixels."""
    return faster_rcnn("resnet86_mod", num_classes, backbone_args={"config": config}, **(_SIZES | kwargs))


_SIZES: dict[str, Any] = {"min_size": 600, "max_size": 1000}  # the paper's limits of the short and the long side


def _pyramid(
    backbone: str | nn.Module,
    backbone_args: Mapping[str, Any],
    strides: tuple[int, ...],
    channels: int,
    extra_levels: ExtraFPNBlock,
    frozen_norms: bool,
) -> nn.Sequential:
    """Build a module that maps (N, 3, H, W) to the feature maps of a pyramid by name.

    The names are `"0"`, `"1"`, … for these strides, followed by the names of the extra levels.
    """
    opened = open_backbone(backbone, backbone_args)
    stages = {stage.stride: stage for stage in opened.stages}
    if missing := [stride for stride in strides if stride not in stages]:
        raise ValueError(f"the backbone has stages of the strides {list(stages)}; detection also needs {missing[0]}")
    pyramid_stages = [stages[stride] for stride in strides]
    body = opened.maps({stage: str(number) for number, stage in enumerate(pyramid_stages)})
    if frozen_norms:
        norms = {name: layer for name, layer in body.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        swap_(body, {name: _frozen(norm) for name, norm in norms.items()})
    fpn = FeaturePyramidNetwork([stage.channels for stage in pyramid_stages], channels, extra_levels)
    pyramid = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    pyramid.out_channels = channels  # pyright: ignore[reportArgumentType]  torchvision reads it
    return pyramid


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.running_mean is None:
        raise ValueError(
            f"frozen_norms needs nn.BatchNorm2d with weights and statistics; the backbone has {type(norm).__name__}"
        )
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    frozen.load_state_dict({name: value for name, value in norm.state_dict().items() if name in frozen.state_dict()})
    return frozen.to(norm.weight.device)
