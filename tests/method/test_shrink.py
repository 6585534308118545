"""`shrink` builds the same block as the constructor of the architecture at the smaller width."""

import math
from functools import partial

import pytest
import torch
from timm.layers.std_conv import ScaledStdConv2d
from timm.models._efficientnet_blocks import EdgeResidual, InvertedResidual, SqueezeExcite
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.regnet import Bottleneck as RegNetBottleneck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torchvision.models import convnext, efficientnet, mobilenetv2, regnet, resnet
from torchvision.ops import FrozenBatchNorm2d

from cnnmod import find_modules, shrink
from cnnmod.networks import build


def regnet_block(width):
    return regnet.ResBottleneckBlock(width, width, 1, nn.BatchNorm2d, nn.ReLU, group_width=16, se_ratio=0.25)


def mbconv(width):
    return efficientnet.MBConv(efficientnet.MBConvConfig(6, 3, 1, width, width, 1), 0.1, nn.BatchNorm2d)


def fused_mbconv(width):
    return efficientnet.FusedMBConv(efficientnet.FusedMBConvConfig(4, 3, 1, width, width, 1), 0.1, nn.BatchNorm2d)


def timm_mbconv(width):
    return InvertedResidual(width, width, exp_ratio=6, se_layer=partial(SqueezeExcite, rd_ratio=0.25 / 6))


PAIRS = {
    "timm BasicBlock": (BasicBlock(256, 256), 64, BasicBlock(4, 4), 4),
    "timm Bottleneck": (Bottleneck(1024, 256), 64, Bottleneck(16, 4), 16),
    "timm InvertedResidual": (InvertedResidual(64, 64, exp_ratio=6), 16, InvertedResidual(4, 4, exp_ratio=6), 4),
    "timm ConvNeXtBlock": (ConvNeXtBlock(384), 96, ConvNeXtBlock(4), 4),
    "torchvision BasicBlock": (resnet.BasicBlock(256, 256), 64, resnet.BasicBlock(4, 4), 4),
    "torchvision Bottleneck": (resnet.Bottleneck(1024, 256), 64, resnet.Bottleneck(16, 4), 16),
    "torchvision InvertedResidual": (
        mobilenetv2.InvertedResidual(64, 64, 1, 6),
        16,
        mobilenetv2.InvertedResidual(4, 4, 1, 6),
        4,
    ),
    "timm RegNet": (RegNetBottleneck(256, 256, group_size=16), 4, RegNetBottleneck(64, 64, group_size=16), 64),
    "timm EfficientNet": (timm_mbconv(96), 4, timm_mbconv(24), 24),
    "timm EfficientNetV2": (EdgeResidual(96, 96, exp_ratio=4), 8, EdgeResidual(12, 12, exp_ratio=4), 12),
    "torchvision RegNet": (regnet_block(256), 4, regnet_block(64), 64),
    "torchvision EfficientNet": (mbconv(96), 4, mbconv(24), 24),
    "torchvision EfficientNetV2": (fused_mbconv(64), 4, fused_mbconv(16), 16),
    "torchvision CNBlock": (convnext.CNBlock(384, 1e-6, 0.0), 96, convnext.CNBlock(4, 1e-6, 0.0), 4),
}


@pytest.mark.parametrize("name", PAIRS)
def test_shrunk_block_equals_the_constructor_at_that_width(name):
    host, c, expected, width = PAIRS[name]
    narrow = shrink(host, c)
    shapes = {key: tensor.shape for key, tensor in expected.state_dict().items()}
    assert {key: tensor.shape for key, tensor in narrow.state_dict().items()} == shapes
    narrow.load_state_dict(expected.state_dict())
    x_NCHW = torch.randn(2, width, 9, 9)
    assert torch.equal(narrow.eval()(x_NCHW), expected.eval()(x_NCHW))
    assert repr(narrow) == repr(expected)


def test_each_width_is_rounded_down():
    narrow = shrink(InvertedResidual(24, 24, exp_ratio=6), 16)
    assert narrow.conv_pw.out_channels == 9  # 144 // 16, not 6 · (24 // 16)


def test_widths_are_at_least_one():
    assert shrink(nn.Conv2d(3, 5, 1), 64).weight.shape == (1, 1, 1, 1)


def test_host_is_unchanged():
    host = Bottleneck(256, 64)
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    narrow = shrink(host, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in host.state_dict().items())
    theirs = {tensor.data_ptr() for tensor in host.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in narrow.state_dict().values()}


LAWS = {
    "ResNet: kaiming, fan out": ("resnet50", "layer3.1", 16, ["conv1", "conv2", "conv3"]),
    "EfficientNet: fan out of a group": ("mobilenetv2_100", "blocks.3.1", 2, ["conv_pw", "conv_dw", "conv_pwl"]),
    "ConvNeXt: 0.02": ("convnext_tiny", "stages.2.blocks.1", 4, ["conv_dw", "mlp.fc1", "mlp.fc2"]),
    "VGG: kaiming, fan out": ("vgg11_bn", "features.11", 2, [""]),
}


@pytest.mark.parametrize("law", LAWS)
def test_weights_have_the_standard_deviation_of_the_family(law):
    """The standard deviation is that of the architecture's own initialization at this width."""
    network, name, c, layers = LAWS[law]
    host = build(network).get_submodule(name)
    narrow = shrink(host, c)
    for layer in layers:
        weight, groups = narrow.get_submodule(layer).weight, getattr(narrow.get_submodule(layer), "groups", 1)
        fan_out = weight.shape[0] * weight[0, 0].numel()
        expected = {"E": math.sqrt(2 * groups / fan_out), "C": 0.02}.get(law[0], math.sqrt(2 / fan_out))
        assert weight.std().item() == pytest.approx(expected, rel=0.01 + 4 / math.sqrt(2 * weight.numel())), layer


def test_default_initialization_of_torch_is_recognized():
    weight = shrink(nn.Conv2d(512, 512, 3), 4).weight
    bound = 1 / math.sqrt(128 * 9)
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_norms_keep_the_initial_value_of_the_host():
    host = ResNet(Bottleneck, (1, 2, 1, 1)).layer2[1]  # timm initializes the last norm of a block to zero
    assert shrink(host, 64).bn3.weight.tolist() == [0.0] * 8
    nn.init.normal_(host.bn3.weight)
    host.bn3.running_mean.fill_(3.0)
    narrow = shrink(host, 64)
    assert narrow.bn3.weight.tolist() == [1.0] * 8
    assert narrow.bn3.running_mean.tolist() == [0.0] * 8


def test_parameters_of_unknown_modules_are_cut():
    assert shrink(ConvNeXt(depths=(1, 1, 1, 1)).stages[0].blocks[0], 48).gamma.tolist() == pytest.approx([1e-6] * 2)


def test_groups_divide_the_widths():
    assert shrink(nn.Conv2d(128, 128, 3, groups=32), 8).groups == 4
    assert shrink(nn.Conv2d(96, 96, 3, groups=96), 8).groups == 12
    assert shrink(nn.Conv2d(100, 60, 3, groups=20), 5).groups == 4
    assert shrink(nn.GroupNorm(32, 256), 16).num_groups == 2
    assert shrink(nn.ConvTranspose2d(8, 16, 2), 4).weight.shape == (2, 4, 2, 2)


def test_registered_rule_is_used():
    class Doubled(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width

    @shrink.register(Doubled)
    def _(layer, c):
        return Doubled(layer.width // c)

    assert shrink(nn.Sequential(nn.ReLU(), Doubled(64)), 16)[1].width == 4


@pytest.mark.parametrize("c", [0, -1, 2.0, True, None])
def test_invalid_divisors_raise(c):
    for block in (nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)):
        with pytest.raises(ValueError, match="c must be a positive integer"):
            shrink(block, c)


def test_object_that_is_not_a_module_raises():
    with pytest.raises(ValueError, match=r"block must be a torch\.nn\.Module, not list"):
        shrink([], 2)


def test_meta_device_is_supported():
    with torch.device("meta"):
        host = Bottleneck(1024, 256)
    assert shrink(host, 64).conv1.weight.is_meta
    assert find_modules(ResNet(BasicBlock, (2, 1, 1, 1)).to("meta"))[0] == ["layer1.0", "layer1.1"]


def test_parameters_with_unknown_widths_raise():
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, 64, 7, 7))

    with pytest.raises(ValueError, match=r"shrink has no rule for Bias .* 'bias' \(1, 64, 7, 7\)"):
        shrink(nn.Sequential(Bias()), 16)


class Splitting(nn.Module):
    """A block that stores widths in integer attributes, as in FasterNet, MixNet and FocalNet."""

    def __init__(self):
        super().__init__()
        self.dim, self.spatial_dim, self.kernel_size = 64, (2, 3), 64
        self.split_indexes = (40, 12, 12)
        self.mix = nn.Conv2d(64, 2 * 64 + 4, 1)
        self.gate_split = [64, 64, 4]

    def forward(self, x):
        first, second, gate = torch.split(self.mix(x), self.gate_split, 1)
        return first + second * gate.mean(self.spatial_dim, keepdim=True).sum(1, keepdim=True)


def test_integer_attributes_named_like_widths_are_divided():
    narrow = shrink(Splitting(), 16)
    assert (narrow.dim, narrow.spatial_dim, narrow.kernel_size) == (4, (2, 3), 64)
    assert narrow.split_indexes == (2, 1, 1)  # each at least 1, and the sum is 64 // 16
    # 5, 1 and 1 after rounding; the first part gets the difference to 8.
    assert shrink(Splitting(), 8).split_indexes == (6, 1, 1)
    assert narrow.gate_split == [4, 4, 4]  # the number of gates, 4, is not divided
    assert narrow.mix.out_channels == 12  # equal to the sum of the parts
    assert narrow(torch.rand(1, 4, 5, 5)).shape == (1, 4, 5, 5)


def test_weight_standardized_convolutions_keep_their_scale():
    """The gain is shortened, and the scale is gamma / sqrt(fan-in)."""
    narrow, expected = shrink(ScaledStdConv2d(64, 128, 3), 16), ScaledStdConv2d(4, 8, 3)
    assert narrow.gain.shape == expected.gain.shape
    assert narrow.scale == pytest.approx(expected.scale)


def test_frozen_norms_start_as_the_identity():
    host = FrozenBatchNorm2d(64)
    for buffer in host.buffers():
        buffer.fill_(3)
    narrow = shrink(nn.Sequential(host), 16)[0]
    x_NCHW = torch.rand(1, 4, 3, 3)
    torch.testing.assert_close(narrow(x_NCHW), x_NCHW)


class NormedConv(nn.Conv2d):
    """A convolution with its own norm, activation and scalar parameter, as in detectron2."""

    def __init__(self):
        super().__init__(64, 64, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(64), nn.PReLU(64)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, input):
        return self.act(self.norm(super().forward(input))) * self.alpha


def test_nested_layers_are_shrunk_and_not_shared():
    host = NormedConv()
    narrow = shrink(host, 16)
    assert narrow(torch.rand(1, 4, 5, 5)).shape == (1, 4, 5, 5)
    assert not {p.data_ptr() for p in host.parameters()} & {p.data_ptr() for p in narrow.parameters()}


def test_small_dimensions_are_not_divided():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch_weights = nn.Parameter(torch.tensor([1.0, 0.0, 2.0]))

    assert shrink(Weighted(), 16).branch_weights.tolist() == [1.0, 0.0, 2.0]
