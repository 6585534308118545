import copy

import pytest
import torch
from torch import nn

from cnnmod import MoDBlock
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.pointwise import PointwiseConv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [1, 3])
def test_equals_the_convolution(bias, images):
    conv = nn.Conv2d(5, 7, 1, bias=bias)
    x_NCHW = torch.randn(images, 5, 4, 6)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x_NCHW.contiguous(memory_format=memory_format)
        torch.testing.assert_close(PointwiseConv(conv)(given), conv(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (nn.Conv2d(6, 6, 1), True),
        (nn.Conv2d(64, 64, 1), True),
        (nn.Conv2d(6, 65, 1), False),
        (nn.Conv2d(65, 6, 1), False),
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
