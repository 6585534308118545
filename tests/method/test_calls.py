import pytest
import torch
from torch import nn

from cnnmod.method.calls import Call, Refused, trace_calls
from cnnmod.networks import build


def test_call_has_shapes_and_channels():
    call = trace_calls(build("resnet18"))["layer2.0"]
    assert isinstance(call, Call)
    assert (call.in_shape, call.out_shape) == ((1, 64, 56, 56), (1, 128, 28, 28))
    assert (call.in_channels, call.out_channels, call.layout) == (64, 128, "NCHW")


def test_layout_is_inferred_from_the_first_layer():
    for name, block, layout in (
        ("timm/mambaout_femto", "stages.1.blocks.0", "NHWC"),
        ("timm/convnext_atto", "stages.1.blocks.0", "NCHW"),
        ("torchvision/convnext_tiny", "features.1.1", "NCHW"),
    ):
        call = trace_calls(build(name))[block]
        assert isinstance(call, Call)
        assert call.layout == layout


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.twice, self.never, self.flat = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.extra, self.listed = Extra(), Extra()

    def forward(self, x):
        x = self.twice(self.twice(self.once(x)))
        return self.flat(self.listed(self.extra(x, 2, scale=x.new_ones(1)), [x])[0])


class Extra(nn.Module):
    def forward(self, x, times, scale=1):
        return x


def test_reasons_state_why_a_layer_cannot_be_a_block():
    calls = trace_calls(Odd(), torch.rand(1, 4, 5, 5))
    assert calls["twice"] == Refused("the network calls it 2 times")
    assert calls["never"] == Refused("the network does not call it")
    assert calls["flat"] == Refused("its input is (4, 5, 5), not a feature map (N, C, H, W)")
    assert calls["listed"] == Refused("one of its other arguments is a list, tuple or dictionary")
    extra = calls["extra"]
    assert isinstance(extra, Call)
    assert extra.args == (2,)
    assert extra.kwargs["scale"].is_meta


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/densenet121"])
def test_inputs_that_are_not_feature_maps_are_refused(name):
    reasons = [call.reason for call in trace_calls(build(name)).values() if isinstance(call, Refused)]
    assert any("not a feature map (N, C, H, W)" in reason for reason in reasons)
