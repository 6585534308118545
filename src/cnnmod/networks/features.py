"""open_backbone: use a classifier as a backbone that returns a feature map of each stage."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import trace_calls
from cnnmod.method.discover import discover
from cnnmod.method.structure import shape_difference
from cnnmod.method.trace import example_for
from cnnmod.method.unwrapped import check_unwrapped
from cnnmod.networks.dilate import dilate_, stride_of
from cnnmod.networks.registry import build


class Stage(NamedTuple):
    """The layers of a backbone whose feature maps have the same resolution.

    Attributes:
        name: The name of the stage's last layer. The layer's output is the stage's feature map.
        channels: The number of channels of the feature map.
        stride: The stride of the feature map relative to the image, in pixels.
    """

    name: str
    channels: int
    stride: int


class Backbone(NamedTuple):
    """A network and its stages.

    Attributes:
        network: The classifier.
        stages: Its stages, in order of their strides.
        leaves: The classes of layers that torch.fx must not trace into.
    """

    network: nn.Module
    stages: list[Stage]
    leaves: list[type[nn.Module]]

    def maps(self, names: Mapping[Stage, str]) -> nn.Module:
        """Build a module that maps (N, 3, H, W) to the feature maps of these stages, by name.

        The layers after the last of these stages are removed.
        """
        nodes = {stage.name: name for stage, name in names.items()}
        leaves = {"leaf_modules": [*self.leaves, *get_notrace_modules()], "autowrap_functions": get_notrace_functions()}
        return create_feature_extractor(self.network, nodes, tracer_kwargs=leaves)


def open_backbone(
    backbone: str | nn.Module, arguments: Mapping[str, Any], output_stride: int | None = None
) -> Backbone:
    """Return a backbone with its stages, which are found by shape.

    Args:
        backbone: The name of a network for `build`, or the network itself, which is changed in place.
        arguments: The arguments of `build`. They are accepted only with a name.
        output_stride: The largest stride, see `dilate_`. `None` leaves the strides unchanged.

    Raises:
        ValueError: If there are arguments without a name, the network is wrapped or has no stages, or `build` or
            `dilate_` raises the error.

    Examples:
        >>> [tuple(stage) for stage in open_backbone("resnet18", {}).stages]
        [('layer1.1', 64, 4), ('layer2.1', 128, 8), ('layer3.1', 256, 16), ('layer4.1', 512, 32)]
    """
    if isinstance(backbone, str):
        network = build(backbone, **arguments)
    elif arguments:
        raise ValueError(
            f"backbone_args are accepted only with the name of a backbone, not with a {type(backbone).__name__}"
        )
    else:
        check_unwrapped(backbone)
        network = backbone
    example = example_for(network)
    blocks = [block for module in discover(network, trace_calls(network, example)) for block in module]
    stages: dict[int, Stage] = {}
    for block in blocks:
        stride = stride_of(example, block.call.out_shape[block.call.layout.index("H")])
        stages[stride] = Stage(block.last, block.call.out_channels, stride)
    if output_stride is not None:
        dilate_(network, output_stride)
    leaves = {type(network.get_submodule(block.name)) for block in blocks}
    return Backbone(network, list(stages.values()), sorted(leaves | {MoDBlock}, key=str))


def load_backbone_(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load the weights of a classifier into the backbone of a segmentation network or detector, in place.

    Args:
        model: The result of `fcn`, `faster_rcnn` or a similar function.
        path: A file of `cnnmod.save` or `cnnmod train`. It must hold the same backbone as a classifier, with the same
            MoD blocks. The weights of the classifier's last layers are ignored.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a safetensors file, or belongs to another backbone. In the second case, the message
            names the first tensor that differs. The model is unchanged.
    """
    backbone = model.get_submodule("backbone")
    body = backbone.get_submodule("body") if isinstance(backbone, nn.Sequential) else backbone
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {' '.join(str(error).split())}") from error
    state = body.state_dict()
    if (difference := shape_difference(state, state, tensors)) is not None:
        raise ValueError(f"{path} is of another backbone: {difference}")
    body.load_state_dict({name: tensors[name] for name in state})
    return model
