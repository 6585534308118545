"""The paper's networks for ImageNet: timm's networks with MoD blocks."""

from typing import Any

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from timm.models.vgg import cfgs as vgg_layers
from torch import nn

from cnnmod.networks.through_timm import Dense, timm_network, timm_settings

default_cfgs: dict[str, Any] = {}  # timm's settings of each network, by name
_RESNET = timm_settings("conv1", "fc")
_MOBILENET = timm_settings("conv_stem", "classifier")
_VGG = timm_settings("features.0", "head.fc")


def basic(*layers: int) -> Dense:
    """Describe a ResNet with basic blocks."""
    return Dense(ResNet, {"block": BasicBlock, "layers": layers})


def bottleneck(*layers: int) -> Dense:
    """Describe a ResNet with bottleneck blocks."""
    return Dense(ResNet, {"block": Bottleneck, "layers": layers})


def vgg(layers: str, **settings: Any) -> Dense:
    """Describe a VGG with batch norm and the layers of `"vgg16"` or `"vgg19"`."""
    settings |= {"cfg": vgg_layers[layers], "norm_layer": nn.BatchNorm2d}
    return Dense(VGG, settings, out_indices=(0, 1, 2, 3, 4, 5))


@timm_network(_RESNET)
def resnet18_mod() -> Dense:
    """ResNet18-MoD: 5.464 M parameters."""
    return basic(2, 2, 2, 2)


@timm_network(_RESNET)
def resnet26_mod() -> Dense:
    """ResNet26-MoD with basic blocks (timm's resnet26 has bottleneck blocks): 11.399 M parameters."""
    return basic(2, 2, 3, 4)


@timm_network(_RESNET)
def resnet34_mod() -> Dense:
    """ResNet34-MoD: 12.934 M parameters."""
    return basic(3, 4, 6, 3)


@timm_network(_RESNET)
def resnet42_mod() -> Dense:
    """ResNet42-MoD: 17.721 M parameters."""
    return basic(3, 3, 6, 6)


@timm_network(_RESNET)
def resnet50_mod() -> Dense:
    """ResNet50-MoD: 18,105,949 parameters."""
    return bottleneck(3, 4, 6, 3)


@timm_network(_RESNET)
def resnet75_mod() -> Dense:
    """ResNet75-MoD: 23,100,253 parameters."""
    return bottleneck(3, 4, 14, 3)


@timm_network(_RESNET)
def resnet86_mod() -> Dense:
    """ResNet86-MoD: 25,597,405 parameters."""
    return bottleneck(3, 4, 18, 3)


@timm_network(_RESNET)
def resnet101_mod() -> Dense:
    """ResNet101-MoD: 29,211,741 parameters."""
    return bottleneck(3, 4, 23, 3)


@timm_network(_RESNET)
def resnet152_mod() -> Dense:
    """ResNet152-MoD: 37,460,437 parameters."""
    return bottleneck(3, 8, 36, 3)


def _mobilenetv2(stages: str) -> Dense:
    block_args = decode_arch_def([[stage] for stage in stages.split()])
    return Dense(EfficientNet, {"block_args": block_args, "act_layer": nn.ReLU6})


@timm_network(_MOBILENET)
def mobilenetv2_mod() -> Dense:
    """MobileNetV2-MoD: 2.944 M parameters."""
    return _mobilenetv2(
        "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c24 ir_r3_k3_s2_e6_c32 ir_r4_k3_s2_e6_c64 ir_r3_k3_s1_e6_c96 "
        "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    )


@timm_network(_MOBILENET)
def mobilenetv2_mod_l() -> Dense:
    """MobileNetV2-MoD-L, wider in the middle: 3.344 M parameters."""
    return _mobilenetv2(
        "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c32 ir_r3_k3_s2_e6_c64 ir_r4_k3_s2_e6_c96 ir_r3_k3_s1_e6_c128 "
        "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    )


@timm_network(_VGG)
def vgg16_bn_mod() -> Dense:
    """VGG16-BN-MoD with the ImageNet head. The paper uses this network only for CIFAR."""
    return vgg("vgg16")


@timm_network(_VGG)
def vgg19_bn_mod() -> Dense:
    """VGG19-BN-MoD with the ImageNet head. The paper uses this network only for CIFAR."""
    return vgg("vgg19")


@timm_network(timm_settings("stem.0", "head.fc", interpolation="bicubic"))
def convnext_tiny_mod() -> Dense:
    """ConvNeXt-T-MoD. The paper mentions ConvNeXt-T, but has no results for it."""
    return Dense(ConvNeXt, {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)}, out_indices=(0, 1, 2, 3))
