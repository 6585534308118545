import torch
from timm.models.resnet import BasicBlock
from torch import nn

from cnnmod import MoDConfig, convert_
from cnnmod.deploy.flow import trace_flow
from cnnmod.networks import build


def test_resnet():
    flow = trace_flow(build("resnet18_mod"))
    assert flow.conv_norms["conv1"] == "bn1"
    assert flow.conv_norms["layer1.1.conv_block.conv2"] == "layer1.1.conv_block.bn2"
    assert len(flow.conv_norms) == 20
    assert flow.overwritable == {"layer1.1", "layer2.1", "layer3.1", "layer4.1"}


class Reads(nn.Module):
    """A network that reads things twice: a convolution's output, and what stands before its MoD block."""

    def __init__(self, late: bool, returned: bool = False):
        super().__init__()
        self.late, self.returned = late, returned
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) + y
        before = self.blocks[0](y)
        early = before * 2 if not self.late else 0
        after = self.blocks[1](before)
        result = after + (before * 2 if self.late else early)
        return (result, before) if self.returned else result


def test_what_is_read_twice_is_left_alone():
    x_NCHW = torch.rand(1, 3, 8, 8)
    for late, returned, overwritable in ((False, False, {"blocks.1"}), (True, False, set()), (False, True, set())):
        flow = trace_flow(convert_(Reads(late, returned), MoDConfig(c=4), example=x_NCHW), x_NCHW)
        assert "conv" not in flow.conv_norms
        assert flow.overwritable == overwritable
