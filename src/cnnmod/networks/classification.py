"""The paper's classification networks, registered with timm: each is its family's own network, converted.

`timm.create_model(name)` takes what it takes for the family (`num_classes`, `in_chans`, `features_only`, …) and
`config`, a `MoDConfig`.
"""

from collections.abc import Callable
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG, ConvMlp
from timm.models.vgg import cfgs as vgg_layers
from torch import nn

from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import convert_

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _imagenet(first_conv: str, classifier: str, **settings: Any) -> dict[str, Any]:
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


def _cifar(first_conv: str, classifier: str, pool_size: int) -> dict[str, Any]:
    return _imagenet(
        first_conv,
        classifier,
        num_classes=10,
        input_size=(3, 32, 32),
        pool_size=(pool_size, pool_size),
        crop_pct=1.0,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
    )


_SETTINGS: dict[str, Any] = (
    {f"resnet{depth}_mod": _imagenet("conv1", "fc") for depth in (18, 26, 34, 42, 50, 75, 86, 101, 152)}
    | {name: _imagenet("conv_stem", "classifier") for name in ("mobilenetv2_mod", "mobilenetv2_mod_l")}
    | {f"vgg{depth}_bn_mod": _imagenet("features.0", "head.fc") for depth in (16, 19)}
    | {"convnext_tiny_mod": _imagenet("stem.0", "head.fc", interpolation="bicubic")}
    | {f"resnet{depth}_cifar{form}": _cifar("conv1", "fc", 4) for depth in (18, 34, 50) for form in ("", "_mod")}
    | {f"vgg{depth}_bn_cifar{form}": _cifar("features.0", "head.fc", 1) for depth in (16, 19) for form in ("", "_mod")}
)
default_cfgs = generate_default_cfgs(_SETTINGS)


def _build(
    dense: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    *,
    config: MoDConfig | None = MoDConfig(),
    out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    **kwargs: Any,
) -> Any:
    """Build through timm the network that `dense` makes, converted unless `config` is None."""

    def network(**settings: Any) -> nn.Module:
        model = dense(**settings)
        return model if config is None else convert_(model, config)

    feature_cfg = {"feature_cls": "getter", "out_indices": out_indices}
    return build_model_with_cfg(network, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _cifar_resnet(**settings: Any) -> ResNet:
    """timm's ResNet with CIFAR's stem: a 3×3 convolution of stride 1 and no max-pooling."""
    model = ResNet(**settings)
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d)
    model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    info: dict[str, Any]
    for info in model.feature_info:
        info["reduction"] //= 2 if info["module"] == "act1" else 4
    return model


def digits_resnet() -> ResNet:
    """A ResNet for scanned digits, (N, 1, 8, 8) → (N, 10), of a quarter of ResNet18's width: 0.60 M parameters."""
    return _cifar_resnet(block=BasicBlock, layers=(2, 4, 4, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def _cifar_vgg(**settings: Any) -> VGG:
    """timm's VGG with the head 512 → 512 → 512 → classes; the dropout stands before the last two."""
    width, drop_rate, num_classes = 512, settings["drop_rate"], settings.get("num_classes", 10)
    model = VGG(mlp_ratio=1 / 4096, **settings)  # the 7×7 layer of the ImageNet head, about to go, one unit wide
    model.pre_logits = ConvMlp(width, width, kernel_size=1, drop_rate=drop_rate)
    model.head = ClassifierHead(width, num_classes, pool_type=settings.get("global_pool", "avg"), drop_rate=drop_rate)
    model.head_hidden_size = width
    model._initialize_weights()
    return model


@register_model
def resnet18_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18-MoD: 5.464 M parameters."""
    return _build(ResNet, "resnet18_mod", pretrained, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)


@register_model
def resnet26_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet26-MoD, of basic blocks (timm's resnet26 has bottlenecks): 11.399 M parameters."""
    return _build(ResNet, "resnet26_mod", pretrained, block=BasicBlock, layers=(2, 2, 3, 4), **kwargs)


@register_model
def resnet34_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34-MoD: 12.934 M parameters."""
    return _build(ResNet, "resnet34_mod", pretrained, block=BasicBlock, layers=(3, 4, 6, 3), **kwargs)


@register_model
def resnet42_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet42-MoD: 17.721 M parameters."""
    return _build(ResNet, "resnet42_mod", pretrained, block=BasicBlock, layers=(3, 3, 6, 6), **kwargs)


@register_model
def resnet50_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50-MoD: 18,105,949 parameters."""
    return _build(ResNet, "resnet50_mod", pretrained, block=Bottleneck, layers=(3, 4, 6, 3), **kwargs)


@register_model
def resnet75_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet75-MoD: 23,100,253 parameters."""
    return _build(ResNet, "resnet75_mod", pretrained, block=Bottleneck, layers=(3, 4, 14, 3), **kwargs)


@register_model
def resnet86_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet86-MoD: 25,597,405 parameters."""
    return _build(ResNet, "resnet86_mod", pretrained, block=Bottleneck, layers=(3, 4, 18, 3), **kwargs)


@register_model
def resnet101_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet101-MoD: 29,211,741 parameters."""
    return _build(ResNet, "resnet101_mod", pretrained, block=Bottleneck, layers=(3, 4, 23, 3), **kwargs)


@register_model
def resnet152_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet152-MoD: 37,460,437 parameters."""
    return _build(ResNet, "resnet152_mod", pretrained, block=Bottleneck, layers=(3, 8, 36, 3), **kwargs)


def _mobilenetv2(variant: str, pretrained: bool, stages: str, **kwargs: Any) -> EfficientNet:
    settings = {"block_args": decode_arch_def([[stage] for stage in stages.split()]), "act_layer": nn.ReLU6}
    return _build(EfficientNet, variant, pretrained, **(settings | kwargs))


@register_model
def mobilenetv2_mod(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNetV2-MoD: 2.944 M parameters."""
    stages = "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c24 ir_r3_k3_s2_e6_c32 ir_r4_k3_s2_e6_c64 ir_r3_k3_s1_e6_c96 "
    stages += "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    return _mobilenetv2("mobilenetv2_mod", pretrained, stages, **kwargs)


@register_model
def mobilenetv2_mod_l(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNetV2-MoD-L, wider in the middle: 3.344 M parameters."""
    stages = "ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c32 ir_r3_k3_s2_e6_c64 ir_r4_k3_s2_e6_c96 ir_r3_k3_s1_e6_c128 "
    stages += "ir_r3_k3_s2_e6_c160 ir_r1_k3_s1_e6_c320"
    return _mobilenetv2("mobilenetv2_mod_l", pretrained, stages, **kwargs)


def _vgg(dense: Callable[..., VGG], variant: str, pretrained: bool, layers: str, **kwargs: Any) -> VGG:
    settings = {"cfg": vgg_layers[layers], "norm_layer": nn.BatchNorm2d, "out_indices": (0, 1, 2, 3, 4, 5)}
    return _build(dense, variant, pretrained, **(settings | kwargs))


@register_model
def vgg16_bn_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN-MoD with the ImageNet head; the paper has it for CIFAR only."""
    return _vgg(VGG, "vgg16_bn_mod", pretrained, "vgg16", **kwargs)


@register_model
def vgg19_bn_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN-MoD with the ImageNet head; the paper has it for CIFAR only."""
    return _vgg(VGG, "vgg19_bn_mod", pretrained, "vgg19", **kwargs)


@register_model
def convnext_tiny_mod(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt-T-MoD; the paper names the host and gives no result."""
    settings: dict[str, Any] = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "out_indices": (0, 1, 2, 3)}
    return _build(ConvNeXt, "convnext_tiny_mod", pretrained, **(settings | kwargs))


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18 for CIFAR: 3×3 stem, no max-pooling."""
    return _build(
        _cifar_resnet, "resnet18_cifar", pretrained, config=None, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs
    )


@register_model
def resnet18_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return _build(_cifar_resnet, "resnet18_cifar_mod", pretrained, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)


@register_model
def resnet34_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34 for CIFAR: 3×3 stem, no max-pooling."""
    return _build(
        _cifar_resnet, "resnet34_cifar", pretrained, config=None, block=BasicBlock, layers=(3, 4, 6, 3), **kwargs
    )


@register_model
def resnet34_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return _build(_cifar_resnet, "resnet34_cifar_mod", pretrained, block=BasicBlock, layers=(3, 4, 6, 3), **kwargs)


@register_model
def resnet50_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50 for CIFAR: 3×3 stem, no max-pooling."""
    return _build(
        _cifar_resnet, "resnet50_cifar", pretrained, config=None, block=Bottleneck, layers=(3, 4, 6, 3), **kwargs
    )


@register_model
def resnet50_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return _build(_cifar_resnet, "resnet50_cifar_mod", pretrained, block=Bottleneck, layers=(3, 4, 6, 3), **kwargs)


@register_model
def vgg16_bn_cifar(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return _vgg(_cifar_vgg, "vgg16_bn_cifar", pretrained, "vgg16", config=None, **({"drop_rate": 0.5} | kwargs))


@register_model
def vgg16_bn_cifar_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return _vgg(_cifar_vgg, "vgg16_bn_cifar_mod", pretrained, "vgg16", **({"drop_rate": 0.5} | kwargs))


@register_model
def vgg19_bn_cifar(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return _vgg(_cifar_vgg, "vgg19_bn_cifar", pretrained, "vgg19", config=None, **({"drop_rate": 0.5} | kwargs))


@register_model
def vgg19_bn_cifar_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return _vgg(_cifar_vgg, "vgg19_bn_cifar_mod", pretrained, "vgg19", **({"drop_rate": 0.5} | kwargs))
