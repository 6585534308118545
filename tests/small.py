"""Networks so small that tests can train, lower and export them."""

from collections import OrderedDict

import torch
from timm.models.densenet import DenseNet
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, convert_
from cnnmod.networks import build


def digits_resnet():
    """(N, 1, 8, 8) → (N, 10), of a quarter of ResNet18's width: 0.60 M parameters."""
    return build("resnet18_cifar", layers=(2, 4, 4, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def shallow_resnet():
    """The same with 6 of its 11 blocks; 2 become MoD blocks. For what takes time for each layer, as exporting does."""
    return build("resnet18_cifar", layers=(2, 2, 1, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def tiny_network(width=16):
    """(N, 1, 8, 8) → (N, 10), of two basic blocks; the second becomes a MoD block."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, width, 3, padding=1),
            blocks=nn.Sequential(BasicBlock(width, width), BasicBlock(width, width)),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(width, 10),
        )
    )


def tiny_network_mod():
    """The same with a MoD block, as a factory for the command line."""
    return convert_(tiny_network(), MoDConfig(c=4), example=torch.rand(1, 1, 8, 8))


def densenet():
    """(N, 3, H, W) → (N, 1000), of blocks that take a list: there is nothing to convert."""
    return DenseNet(growth_rate=4, block_config=(2, 2))
