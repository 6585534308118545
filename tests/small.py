"""Networks that are small enough to train, lower and export in tests."""

from collections import OrderedDict

import torch
from timm.models.densenet import DenseNet
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, convert_
from cnnmod.networks import build

# A training of the recipe `digits` in about two seconds.
SHORT_DIGITS = ["epochs=1", "warmup_epochs=0", "train_images=128", "network_args.layers=[2,2,1,1]"]


def digits_resnet():
    """(N, 1, 8, 8) → (N, 10), with a quarter of ResNet18's width: 0.60 M parameters."""
    return build("resnet18_cifar", layers=(2, 4, 4, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def shallow_resnet():
    """The same network with 6 of 11 blocks, of which 2 become MoD blocks. For tests that are slow for each layer."""
    return build("resnet18_cifar", layers=(2, 2, 1, 1), channels=(16, 32, 64, 128), in_chans=1, num_classes=10)


def tiny_network(width=16):
    """(N, 1, 8, 8) → (N, 10), with two basic blocks. The second becomes a MoD block."""
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
    """The same network with a MoD block, as a factory for the command line."""
    return convert_(tiny_network(), MoDConfig(c=4), example=torch.rand(1, 1, 8, 8))


def densenet():
    """(N, 3, H, W) → (N, 1000). Its blocks take lists, so none can be converted."""
    return DenseNet(growth_rate=4, block_config=(2, 2))


def color_network(num_classes=10, in_chans=3):
    """(N, 3, 8, 8) → (N, classes), as a network of a user that runs at one size only."""
    model = tiny_network()
    model.stem = nn.Conv2d(in_chans, 16, 3, padding=1)
    model.pool = nn.AvgPool2d(8)
    model.head = nn.Linear(16, num_classes)
    return model


def two_classes():
    """The same network as a factory without arguments."""
    return color_network(2)
