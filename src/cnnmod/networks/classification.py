"""The paper's networks for ImageNet, registered with timm: each is its family's own network, converted.

`timm.create_model(name)` takes what it takes for the family (`num_classes`, `in_chans`, `features_only`, …) and
`config`, a `MoDConfig`.
"""

from collections.abc import Callable
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from timm.models.vgg import cfgs as vgg_layers
from torch import nn

from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import convert_


def timm_settings(first_conv: str, classifier: str, **settings: Any) -> Any:
    """timm's description of a network: input, preprocessing, the names of its first and last layer."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": classifier,
        "paper_name": "CNN Mixture-of-Depths",
        "paper_ids": "arXiv:2409.17016",
    } | settings


default_cfgs = generate_default_cfgs(
    {f"resnet{depth}_mod": timm_settings("conv1", "fc") for depth in (18, 26, 34, 42, 50, 75, 86, 101, 152)}
    | {name: timm_settings("conv_stem", "classifier") for name in ("mobilenetv2_mod", "mobilenetv2_mod_l")}
    | {f"vgg{depth}_bn_mod": timm_settings("features.0", "head.fc") for depth in (16, 19)}
    | {"convnext_tiny_mod": timm_settings("stem.0", "head.fc", interpolation="bicubic")}
)


def build_through_timm(
    dense: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    kwargs: dict[str, Any],
    *,
    config: MoDConfig | None = MoDConfig(),
    out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    **settings: Any,
) -> Any:
    """Build through timm the network that `dense` makes of the settings, converted unless `config` is None.

    What the user gives, `kwargs`, goes before the network's own settings, as everywhere in timm.
    """
    out_indices = kwargs.pop("out_indices", out_indices)
    if config is not None:  # a dense network takes no config
        config = kwargs.pop("config", config)

    def network(**settings: Any) -> nn.Module:
        model = dense(**settings)
        return model if config is None else convert_(model, config)

    feature_cfg = {"feature_cls": "getter", "out_indices": out_indices}
    return build_model_with_cfg(network, variant, pretrained, feature_cfg=feature_cfg, **(settings | kwargs))


def build_vgg(
    dense: Callable[..., VGG], variant: str, pretrained: bool, kwargs: dict[str, Any], layers: str, **settings: Any
) -> VGG:
    """Build through timm the VGG of `layers`, `"vgg16"` or `"vgg19"`, with batch norm."""
    settings |= {"cfg": vgg_layers[layers], "norm_layer": nn.BatchNorm2d, "out_indices": (0, 1, 2, 3, 4, 5)}
    return build_through_timm(dense, variant, pretrained, kwargs, **settings)


@register_model
def resnet18_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18-MoD: 5.464 M parameters."""
    return build_through_timm(ResNet, "resnet18_mod", pretrained, kwargs, block=BasicBlock, layers=(2, 2, 2, 2))


@register_model
def resnet26_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet26-MoD, of basic blocks (timm's resnet26 has bottlenecks): 11.399 M parameters."""
    return build_through_timm(ResNet, "resnet26_mod", pretrained, kwargs, block=BasicBlock, layers=(2, 2, 3, 4))


@register_model
def resnet34_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34-MoD: 12.934 M parameters."""
    return build_through_timm(ResNet, "resnet34_mod", pretrained, kwargs, block=BasicBlock, layers=(3, 4, 6, 3))


@register_model
def resnet42_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet42-MoD: 17.721 M parameters."""
    return build_through_timm(ResNet, "resnet42_mod", pretrained, kwargs, block=BasicBlock, layers=(3, 3, 6, 6))


@register_model
def resnet50_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50-MoD: 18,105,949 parameters."""
    return build_through_timm(ResNet, "resnet50_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 6, 3))


@register_model
def resnet75_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet75-MoD: 23,100,253 parameters."""
    return build_through_timm(ResNet, "resnet75_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 14, 3))


@register_model
def resnet86_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet86-MoD: 25,597,405 parameters."""
    return build_through_timm(ResNet, "resnet86_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 18, 3))


@register_model
def resnet101_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet101-MoD: 29,211,741 parameters."""
    return build_through_timm(ResNet, "resnet101_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 23, 3))


@register_model
def resnet152_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet152-MoD: 37,460,437 parameters."""
    return build_through_timm(ResNet, "resnet152_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 8, 36, 3))


def _mobilenetv2(variant: str, pretrained: bool, stages: str, kwargs: dict[str, Any]) -> EfficientNet:
    block_args = decode_arch_def([[stage] for stage in stages.split()])
    return build_through_timm(EfficientNet, variant, pretrained, kwargs, block_args=block_args, act_layer=nn.ReLU6)


@register_model
def mobilenetv2_mod(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNetV2-MoD: 2.944 M parameters."""
    stages = "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c24 ir_r3_k3_s2_e6_c32 ir_r4_k3_s2_e6_c64 ir_r3_k3_s1_e6_c96 "
    stages += "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    return _mobilenetv2("mobilenetv2_mod", pretrained, stages, kwargs)


@register_model
def mobilenetv2_mod_l(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNetV2-MoD-L, wider in the middle: 3.344 M parameters."""
    stages = "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c32 ir_r3_k3_s2_e6_c64 ir_r4_k3_s2_e6_c96 ir_r3_k3_s1_e6_c128 "
    stages += "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    return _mobilenetv2("mobilenetv2_mod_l", pretrained, stages, kwargs)


@register_model
def vgg16_bn_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN-MoD with the ImageNet head; the paper has it for CIFAR only."""
    return build_vgg(VGG, "vgg16_bn_mod", pretrained, kwargs, "vgg16")


@register_model
def vgg19_bn_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN-MoD with the ImageNet head; the paper has it for CIFAR only."""
    return build_vgg(VGG, "vgg19_bn_mod", pretrained, kwargs, "vgg19")


@register_model
def convnext_tiny_mod(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt-T-MoD; the paper names the host and gives no result."""
    settings: dict[str, Any] = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "out_indices": (0, 1, 2, 3)}
    return build_through_timm(ConvNeXt, "convnext_tiny_mod", pretrained, kwargs, **settings)
