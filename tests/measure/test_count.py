import pytest
import torch
from torch import nn

from cnnmod.measure.count import Count, count, count_modules
from cnnmod.networks import build


def test_count_equals_manual_values():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))
    sizes = count_modules(model, torch.zeros(1, 2, 4, 4))
    assert sizes["0"] == Count(54, 54 * 4 / 1e9)
    assert sizes["1"] == Count(6, 0)
    assert sizes["3"] == Count(65, 60 / 1e9)
    assert sizes[""] == Count(125, (54 * 4 + 60) / 1e9)


def test_count_does_not_depend_on_device_or_mode():
    model = build("resnet18_mod")
    assert count(model.train()) == count(model.to("meta"))
    assert model.training


def test_only_the_first_image_is_counted():
    model = build("resnet18_cifar")
    assert count(model, torch.zeros(4, 3, 32, 32)) == count(model)


def test_invalid_example_raises():
    with pytest.raises(ValueError, match="does not run on an example"):
        count(build("resnet18"), torch.zeros(1, 4, 64, 64))


class Attention(nn.Module):
    """A network with attention, with or without a check of values."""

    def __init__(self, checks):
        super().__init__()
        self.conv, self.checks = nn.Conv2d(3, 16, 8, 8), checks
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        if self.checks and x.isnan().any():
            raise ValueError("NaN")
        y = self.encoder(self.conv(x).flatten(2).mT)
        return nn.functional.scaled_dot_product_attention(y, y, y)


def test_pass_with_values_counts_the_same():
    """A pass with values does not use fused attention, which torch does not count on a CPU."""
    image = torch.rand(1, 3, 64, 64)
    assert count_modules(Attention(True).eval(), image) == count_modules(Attention(False).eval(), image)
