"""A network as a user writes it, with nothing of cnnmod: for the commands of docs/finetune.md."""

import torch
from torch import nn


class SqueezeExcite(nn.Module):
    """Scales channels by their means."""

    def __init__(self, channels):
        super().__init__()
        self.reduce = nn.Linear(channels, channels // 4)
        self.expand = nn.Linear(channels // 4, channels)

    def forward(self, x):
        weights = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()
        return x * weights[:, :, None, None]


class Residual(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, inputs, outputs, stride=1, excite=False):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.excite = SqueezeExcite(outputs) if excite else None
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.first_norm(self.first(x)).relu()
        y = self.second_norm(self.second(y))
        if self.excite is not None:
            y = self.excite(y)
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu()


class MyNet(nn.Module):
    """(N, 3, 64, 64) → (N, classes). It runs at this size only."""

    widths = (16, 32, 64, 96)
    depth = 3

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, self.widths[0], 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(self.widths[0])
        blocks = []
        inputs = self.widths[0]
        for stage, outputs in enumerate(self.widths):
            for number in range(self.depth):
                stride = 2 if stage and not number else 1
                blocks.append(Residual(inputs, outputs, stride, excite=stage == 2))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.hidden = nn.Linear(inputs * 4, 32)  # 2 × 2 pixels after pooling
        self.head = nn.Linear(32, num_classes)

    def features(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        for block in self.blocks:
            x = block(x)
        return torch.flatten(nn.functional.avg_pool2d(x, 2), 1)

    def forward(self, x):
        return self.head(self.hidden(self.features(x)).relu())


def make(num_classes=10):
    """Return the network with new weights."""
    return MyNet(num_classes)
