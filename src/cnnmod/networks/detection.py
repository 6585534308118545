"""Detection: torchvision's Faster R-CNN and RetinaNet over any backbone; the paper's networks for VOC."""

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

_BOX_PIXELS = 7**2  # to so many torchvision pools what the pyramid has of a box


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
    """Faster R-CNN with a feature pyramid over the backbone's stages of strides 4 to 32.

    It is torchvision's class: it takes images (3, H, W) from 0 to 1, each of its own size, as a list or (N, 3, H, W),
    and returns for each its boxes (x1, y1, x2, y2) in pixels, labels and scores; in training mode, with targets,
    losses.

    Args:
        backbone: A network that classifies, dense or with MoD blocks: its name, as `cnnmod.networks.build` takes it,
            or itself; then it is changed in place.
        num_classes: How many classes there are, the background, which is 0, among them.
        frozen_norms: Make the backbone's batch norms constants, as is usual with pretrained weights.
        pyramid_channels: The pyramid's width.
        head_channels: The width of the two layers that look at each box.
        backbone_args: What the backbone of this name is built with.
        kwargs: What torchvision's `FasterRCNN` takes: `min_size`, `max_size`, anchors, …

    Raises:
        ValueError: A backbone without these stages, or with norms that cannot be frozen; or what `build` raises.

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
    """RetinaNet with a feature pyramid over the backbone's stages of strides 8 to 32: torchvision's class; otherwise as
    `faster_rcnn`."""
    more = LastLevelP6P7(pyramid_channels, pyramid_channels)
    pyramid = _pyramid(backbone, backbone_args, (8, 16, 32), pyramid_channels, more, frozen_norms)
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))  # torchvision's own, which it gives no name
    settings: dict[str, Any] = {"anchor_generator": anchors} | kwargs
    return RetinaNet(pyramid, num_classes, **settings)


@register(takes_config=False)
def faster_rcnn_resnet50(num_classes: int = 21, **kwargs: Any) -> FasterRCNN:
    """Faster R-CNN with ResNet50, dense, for images of 600 × 1000 pixels."""
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


_SIZES: dict[str, Any] = {
    "min_size": 600,
    "max_size": 1000,
}  # the paper's: the short side, and what the long one may be


def _pyramid(
    backbone: str | nn.Module,
    backbone_args: Mapping[str, Any],
    strides: tuple[int, ...],
    channels: int,
    more: ExtraFPNBlock,
    frozen_norms: bool,
) -> nn.Sequential:
    """(N, 3, H, W) → the maps of a feature pyramid by name: `"0"`, `"1"`, … for these strides, and those of `more`."""
    opened = open_backbone(backbone, backbone_args)
    stages = {stage.stride: stage for stage in opened.stages}
    if missing := [stride for stride in strides if stride not in stages]:
        raise ValueError(f"the backbone has stages of the strides {list(stages)}; detection needs {missing[0]} too")
    chosen = [stages[stride] for stride in strides]
    body = opened.maps({stage: str(number) for number, stage in enumerate(chosen)})
    if frozen_norms:
        norms = {name: layer for name, layer in body.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        swap_(body, {name: _frozen(norm) for name, norm in norms.items()})
    fpn = FeaturePyramidNetwork([stage.channels for stage in chosen], channels, more)
    pyramid = nn.Sequential(OrderedDict(body=body, fpn=fpn))
    pyramid.out_channels = channels  # pyright: ignore[reportArgumentType]  where torchvision looks for it
    return pyramid


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.running_mean is None:
        raise ValueError(
            f"frozen_norms takes plain batch norms with weights and statistics; the backbone has {type(norm).__name__}"
        )
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    frozen.load_state_dict({name: value for name, value in norm.state_dict().items() if name in frozen.state_dict()})
    return frozen.to(norm.weight.device)
