"""The paper's networks for CIFAR, dense and converted, registered with timm.

They take what the networks for ImageNet take (`classification.py`).
"""

from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG, ConvMlp
from torch import nn

from cnnmod.networks.classification import build_through_timm, build_vgg, timm_settings

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _settings(first_conv: str, classifier: str, pool_size: int) -> Any:
    return timm_settings(
        first_conv,
        classifier,
        num_classes=10,
        input_size=(3, 32, 32),
        pool_size=(pool_size, pool_size),
        crop_pct=1.0,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
    )


default_cfgs = generate_default_cfgs(
    {f"resnet{depth}_cifar{form}": _settings("conv1", "fc", 4) for depth in (18, 34, 50) for form in ("", "_mod")}
    | {
        f"vgg{depth}_bn_cifar{form}": _settings("features.0", "head.fc", 1)
        for depth in (16, 19)
        for form in ("", "_mod")
    }
)


def _cifar_resnet(**settings: Any) -> ResNet:
    """timm's ResNet with CIFAR's stem: a 3×3 convolution of stride 1, as wide as the first module, no max-pooling."""
    half = settings.get("channels", (64,))[0] // 2
    model = ResNet(stem_type="deep", stem_width=half, **settings)  # timm's other stems are always 64 wide
    model.conv1 = nn.Conv2d(settings.get("in_chans", 3), 2 * half, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    info: dict[str, Any]
    for info in model.feature_info:
        info["reduction"] //= 2 if info["module"] == "act1" else 4
    return model


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
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18 for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet18_cifar", pretrained, kwargs, config=None, block=BasicBlock, layers=(2, 2, 2, 2)
    )


@register_model
def resnet18_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet18-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet18_cifar_mod", pretrained, kwargs, block=BasicBlock, layers=(2, 2, 2, 2)
    )


@register_model
def resnet34_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34 for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet34_cifar", pretrained, kwargs, config=None, block=BasicBlock, layers=(3, 4, 6, 3)
    )


@register_model
def resnet34_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet34-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet34_cifar_mod", pretrained, kwargs, block=BasicBlock, layers=(3, 4, 6, 3)
    )


@register_model
def resnet50_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50 for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet50_cifar", pretrained, kwargs, config=None, block=Bottleneck, layers=(3, 4, 6, 3)
    )


@register_model
def resnet50_cifar_mod(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet50-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return build_through_timm(
        _cifar_resnet, "resnet50_cifar_mod", pretrained, kwargs, block=Bottleneck, layers=(3, 4, 6, 3)
    )


@register_model
def vgg16_bn_cifar(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return build_vgg(_cifar_vgg, "vgg16_bn_cifar", pretrained, kwargs, "vgg16", config=None, drop_rate=0.5)


@register_model
def vgg16_bn_cifar_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG16-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return build_vgg(_cifar_vgg, "vgg16_bn_cifar_mod", pretrained, kwargs, "vgg16", drop_rate=0.5)


@register_model
def vgg19_bn_cifar(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return build_vgg(_cifar_vgg, "vgg19_bn_cifar", pretrained, kwargs, "vgg19", config=None, drop_rate=0.5)


@register_model
def vgg19_bn_cifar_mod(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG19-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return build_vgg(_cifar_vgg, "vgg19_bn_cifar_mod", pretrained, kwargs, "vgg19", drop_rate=0.5)
