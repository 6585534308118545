import pytest
import torch
from torch import nn

from cnnmod.method.initialize import constant_like, initialize_like


def test_trained_weights_use_the_resnet_initializer():
    host = torch.randn(64, 64, 3, 3) * 0.7
    weight = torch.empty(32, 32, 3, 3)
    initialize_like(weight, 1, host, 1)
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)


def test_nearest_initializer_is_used():
    host = nn.init.trunc_normal_(torch.empty(96, 1, 7, 7), std=0.02)  # the fan-out initializer would give 0.0206
    weight = torch.empty(8, 1, 7, 7)
    initialize_like(weight, 8, host, 96)
    assert weight.std().item() == pytest.approx(0.02, rel=0.15)


def test_constant_values_are_kept():
    tensor = torch.empty(3)
    constant_like(tensor, torch.full((9,), 1e-6), otherwise=5.0)
    assert tensor.tolist() == pytest.approx([1e-6] * 3)
    constant_like(tensor, torch.arange(9.0), otherwise=5.0)
    assert tensor.tolist() == [5.0] * 3
