"""The paper's networks for CIFAR, dense and with MoD blocks."""

from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models.resnet import ResNet
from timm.models.vgg import VGG, ConvMlp
from torch import nn

from cnnmod.networks.classification import basic, bottleneck, vgg
from cnnmod.networks.through_timm import Dense, timm_network, timm_settings

default_cfgs: dict[str, Any] = {}  # timm's settings of each network, by name
_CIFAR: dict[str, Any] = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}
_RESNET = timm_settings("conv1", "fc", **_CIFAR, pool_size=(4, 4))
_VGG = timm_settings("features.0", "head.fc", **_CIFAR, pool_size=(1, 1))


def _resnet(**settings: Any) -> ResNet:
    """Build timm's ResNet with a stem for CIFAR: a 3×3 convolution of stride 1 and no max-pooling.

    The stem is as wide as the first module.
    """
    half = settings.get("channels", (64,))[0] // 2
    model = ResNet(stem_type="deep", stem_width=half, **settings)  # timm's other stems are always 64 wide
    model.conv1 = nn.Conv2d(settings.get("in_chans", 3), 2 * half, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    info: dict[str, Any]
    for info in model.feature_info:
        info["reduction"] //= 2 if info["module"] == "act1" else 4
    return model


def _vgg(**settings: Any) -> VGG:
    """Build timm's VGG with the head 512 → 512 → 512 → classes, and dropout before the last two layers."""
    width, drop_rate, num_classes = 512, settings["drop_rate"], settings.get("num_classes", 10)
    model = VGG(mlp_ratio=1 / 4096, **settings)  # the ImageNet head is replaced below: one unit in its 7×7 layer
    model.pre_logits = ConvMlp(width, width, kernel_size=1, drop_rate=drop_rate)
    model.head = ClassifierHead(width, num_classes, pool_type=settings.get("global_pool", "avg"), drop_rate=drop_rate)
    model.head_hidden_size = width
    model._initialize_weights()
    return model


@timm_network(_RESNET, converted=False)
def resnet18_cifar() -> Dense:
    """ResNet18 for CIFAR: 3×3 stem, no max-pooling."""
    return basic(2, 2, 2, 2)._replace(make=_resnet)


@timm_network(_RESNET)
def resnet18_cifar_mod() -> Dense:
    """ResNet18-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return basic(2, 2, 2, 2)._replace(make=_resnet)


@timm_network(_RESNET, converted=False)
def resnet34_cifar() -> Dense:
    """ResNet34 for CIFAR: 3×3 stem, no max-pooling."""
    return basic(3, 4, 6, 3)._replace(make=_resnet)


@timm_network(_RESNET)
def resnet34_cifar_mod() -> Dense:
    """ResNet34-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return basic(3, 4, 6, 3)._replace(make=_resnet)


@timm_network(_RESNET, converted=False)
def resnet50_cifar() -> Dense:
    """ResNet50 for CIFAR: 3×3 stem, no max-pooling."""
    return bottleneck(3, 4, 6, 3)._replace(make=_resnet)


@timm_network(_RESNET)
def resnet50_cifar_mod() -> Dense:
    """ResNet50-MoD for CIFAR: 3×3 stem, no max-pooling."""
    return bottleneck(3, 4, 6, 3)._replace(make=_resnet)


@timm_network(_VGG, converted=False)
def vgg16_bn_cifar() -> Dense:
    """VGG16-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return vgg("vgg16", drop_rate=0.5)._replace(make=_vgg)


@timm_network(_VGG)
def vgg16_bn_cifar_mod() -> Dense:
    """VGG16-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return vgg("vgg16", drop_rate=0.5)._replace(make=_vgg)


@timm_network(_VGG, converted=False)
def vgg19_bn_cifar() -> Dense:
    """VGG19-BN for CIFAR, with the head 512 → 512 → 512 → classes."""
    return vgg("vgg19", drop_rate=0.5)._replace(make=_vgg)


@timm_network(_VGG)
def vgg19_bn_cifar_mod() -> Dense:
    """VGG19-BN-MoD for CIFAR, with the head 512 → 512 → 512 → classes."""
    return vgg("vgg19", drop_rate=0.5)._replace(make=_vgg)
