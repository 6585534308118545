import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from cnnmod import MoDConfig, convert_, mod_blocks, plan
from cnnmod.networks import build


def quantize(block):
    block.codes = nn.Parameter((block.conv1.weight * 100).to(torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda block: block.conv1.register_forward_hook(print), "conv1 has hooks, which the MoD block would lose"),
        (lambda block: block.register_forward_pre_hook(lambda *_: None), "it has hooks"),
        (lambda block: weight_norm(block.conv2), "conv2 is parametrized"),
        (quantize, "it has quantized weights or no weights"),
    ],
)
def test_hooked_parametrized_and_quantized_blocks_are_refused(spoil, reason):
    model = build("resnet18")
    spoil(model.layer1[1])
    made = plan(model)
    assert next(block.reason for block in made.blocks if block.name == "layer1.1").startswith(reason)
    assert made.mod_blocks == ["layer2.1", "layer3.1", "layer4.1"]


def test_mixed_precision_blocks_are_converted():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(32)
            self.conv1, self.conv2 = (nn.Conv2d(32, 32, 3, padding=1).bfloat16() for _ in range(2))

        def forward(self, x):
            return x + self.conv2(self.conv1(self.norm(x).bfloat16())).float()

    model = nn.Sequential(*(Block() for _ in range(4)))
    assert plan(model, MoDConfig(c=8), example=torch.rand(1, 32, 8, 8)).mod_blocks == ["1", "3"]
    convert_(model, MoDConfig(c=8), example=torch.rand(1, 32, 8, 8))
    assert model(torch.rand(2, 32, 8, 8)).isfinite().all()


def test_blocks_with_nan_output_are_refused():
    """timm's SimpleNorm divides by the standard deviation over the channels, which is zero for one channel."""
    model = convert_(build("timm/convnext_zepto_rms"))
    assert "stages.0.blocks.1" not in mod_blocks(model)
    assert model(torch.rand(1, 3, 64, 64)).isfinite().all()
