import copy

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.pointwise import PointwiseConv, with_pointwise_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [1, 3])
def test_equals_the_convolution(bias, images):
    conv = nn.Conv2d(5, 7, 1, bias=bias)
    x_NCHW = torch.randn(images, 9, 4, 6)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x_NCHW.contiguous(memory_format=memory_format)[:, :5]
        torch.testing.assert_close(PointwiseConv(conv)(given), conv(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("size", [(4, 6), (1, 1)])
def test_add_to_equals_the_convolution_and_the_sum(bias, images, size):
    conv = nn.Conv2d(5, 7, 1, bias=bias).requires_grad_(False)
    x_NCHW, before = torch.randn(images, 5, *size), torch.randn(images, 7, *size)
    for ours in (torch.contiguous_format, torch.channels_last):
        for theirs in (torch.contiguous_format, torch.channels_last):
            total = before.clone(memory_format=ours)
            PointwiseConv(conv).add_to_(total, x_NCHW.contiguous(memory_format=theirs))
            torch.testing.assert_close(total, before + conv(x_NCHW), atol=1e-5, rtol=1e-5)


def test_large_pointwise_convolutions_are_kept():
    for inputs, outputs, replaced in ((64, 65, True), (65, 64, True), (65, 65, False)):
        layers = nn.Sequential(nn.Conv2d(6, inputs, 1), nn.Conv2d(inputs, outputs, 1), nn.Conv2d(outputs, 6, 1))
        assert isinstance(with_pointwise_products(layers)[1], PointwiseConv) == replaced


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (nn.Conv2d(6, 6, 1), True),
        (nn.Conv2d(64, 64, 1), True),
        (nn.Conv2d(6, 65, 1), True),
        (nn.Conv2d(6, 6, 1, dilation=2), True),
        (nn.Conv2d(6, 6, 3, padding=1), False),
        (nn.Conv2d(6, 6, 1, stride=2), False),
        (nn.Conv2d(6, 6, 1, padding=1), False),
        (nn.Conv2d(6, 6, 1, groups=2), False),
        (type("Own", (nn.Conv2d,), {})(6, 6, 1), False),
    ],
    ids=str,
)
def test_only_small_pointwise_convolutions_are_replaced(layer, replaced):
    for inner in (layer, nn.Sequential(layer, nn.ReLU())):
        made = EagerForm(MoDBlock(copy.deepcopy(inner), 128, 6))
        assert any(isinstance(module, PointwiseConv) for module in made.modules()) == replaced
