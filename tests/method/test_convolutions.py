import pytest
import timm
import torch
import torchvision
from torch import nn

from cnnmod import convert_, find_modules, mod_blocks
from cnnmod.method.convolutions import ConvNormAct
from cnnmod.networks import build


def lengths(model):
    return [len(module) for module in find_modules(model)]


@pytest.mark.slow
def test_vgg_modules_are_between_poolings():
    with torch.device("meta"):
        networks = (build("vgg19_bn"), torchvision.models.vgg19_bn(), torchvision.models.vgg19())
        vgg16 = torchvision.models.vgg16()
    for model in networks:
        assert lengths(model) == [2, 2, 4, 4, 4]
    assert find_modules(vgg16)[0] == ["features.0", "features.2"]


def test_features_only_vgg_has_the_same_modules():
    with torch.device("meta"):
        model = timm.create_model("vgg16_bn", features_only=True)
    assert lengths(model) == [2, 2, 3, 3, 3]


def test_norm_and_activation_belong_to_their_convolution():
    with torch.device("meta"):
        model = build("vgg11_bn")
    convert_(model)
    conv_block = mod_blocks(model)["features.11"].conv_block
    assert isinstance(conv_block, ConvNormAct)
    assert [type(layer) for layer in conv_block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(model.features[number]) for number in (12, 13)] == [nn.Identity, nn.Identity]
