"""A small network and random images for the tests of `tune`."""

import torch
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig

EXAMPLE = torch.rand(1, 3, 8, 8)
CONFIGS = [MoDConfig(c=2, identity_start=True)]


def network():
    torch.manual_seed(0)
    blocks = nn.Sequential(*(BasicBlock(8, 8) for _ in range(4)))
    return nn.Sequential(nn.Conv2d(3, 8, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(16, 3, 8, 8, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]
