"""A classifier as a backbone: its feature maps, stage by stage, at the output stride that dense prediction wants."""

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from torch import Tensor, nn
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torchvision.models.feature_extraction import create_feature_extractor

from cnnmod.method.blocks import MoDBlock
from cnnmod.method.calls import Block, trace_calls
from cnnmod.method.discover import discover
from cnnmod.method.passes import Run
from cnnmod.method.trace import check_bare, example_for, trace


class Stage(NamedTuple):
    """What a backbone computes at one resolution.

    Attributes:
        name: Of the stage's last layer, whose output is its feature map.
        channels: That map's C.
        stride: How many pixels of the image are one of the map.
    """

    name: str
    channels: int
    stride: int


class Backbone(NamedTuple):
    """A network and its stages."""

    network: nn.Module
    stages: list[Stage]
    leaves: list[type[nn.Module]]

    def maps(self, names: Mapping[Stage, str]) -> nn.Module:
        """(N, 3, H, W) → the feature maps of these stages, by name; what comes after the last of them is gone."""
        nodes = {stage.name: name for stage, name in names.items()}
        leaves = {"leaf_modules": [*self.leaves, *get_notrace_modules()], "autowrap_functions": get_notrace_functions()}
        return create_feature_extractor(self.network, nodes, tracer_kwargs=leaves)


def open_backbone(given: str | nn.Module, arguments: Mapping[str, Any], output_stride: int | None = None) -> Backbone:
    """The backbone of a name, built with these arguments, or the one that was given, dilated in place to a stride.

    Its stages are found by shape, as modules are.

    Example:
        >>> [tuple(stage) for stage in open_backbone("resnet18", {}).stages]
        [('layer1.1', 64, 4), ('layer2.1', 128, 8), ('layer3.1', 256, 16), ('layer4.1', 512, 32)]
    """
    from cnnmod.networks.build import build  # which knows what is made of backbones too

    if isinstance(given, str):
        network = build(given, **arguments)
    elif arguments:
        raise ValueError("backbone_args go with a backbone's name; the backbone that was given is built already")
    else:
        check_bare(given)
        network = given
    example = example_for(network)
    blocks = [block for module in discover(network, trace_calls(network, example)) for block in module]
    stages: dict[int, Stage] = {}
    for block in blocks:
        stride = _stride(example, block.call.out_shape[block.call.layout.index("H")])
        stages[stride] = Stage(_last_layer(block), block.call.out_channels, stride)
    if output_stride is not None:
        dilate_(network, output_stride)
    leaves = {type(network.get_submodule(block.name)) for block in blocks}
    return Backbone(network, list(stages.values()), sorted(leaves | {MoDBlock}, key=str))


def dilate_(network: nn.Module, output_stride: int) -> nn.Module:
    """Keep the feature map at a stride, in place: convolutions that would halve it further lose their own stride, and
    those behind are dilated, so that they see what they saw before. MoD blocks' are dilated alike.

    Raises:
        ValueError: What halves the map there is a pooling, or a convolution that does not pad both sides.

    Example:
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
        before = _stride(example, args[0].shape[2])
        if before >= output_stride and isinstance(layer, nn.Conv2d):
            changes.append((name, layer, before // output_stride))
        elif before >= output_stride and layer.stride not in (1, (1, 1)) and output.shape[2] > 1:
            raise ValueError(f"{name} ({type(layer).__name__}) makes the stride more than {output_stride}")

    run(note)
    return changes


def load_backbone_(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Give the backbone of a segmentation network or detector the weights of a classifier's file, in place.

    Args:
        model: What `fcn`, `faster_rcnn` and the like return.
        path: A file that `cnnmod.save` or `cnnmod train` wrote, of the backbone as a classifier, converted alike; its
            last layers are left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no safetensors file, or of another backbone; then with the first tensor that differs. The
            model is then what it was.
    """
    backbone = model.get_submodule("backbone")
    body = backbone.get_submodule("body") if isinstance(backbone, nn.Sequential) else backbone
    try:
        given = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    state = body.state_dict()
    for name, value in state.items():
        theirs = tuple(given[name].shape) if name in given else "missing"
        if theirs != tuple(value.shape):
            raise ValueError(
                f"{path} is of another backbone: {name} is {theirs} in the file, {tuple(value.shape)} here"
            )
    body.load_state_dict({name: given[name] for name in state})
    return model


def _stride(example: Tensor, rows: int) -> int:
    return 2 ** round(math.log2(example.shape[2] / rows))


def _last_layer(block: Block) -> str:
    return block.rest[-1] if block.rest else block.name
