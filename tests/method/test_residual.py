import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, mod_blocks
from cnnmod.method.residual import adds_to_its_input, drop_residual_, has_residual
from cnnmod.networks import build


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenetv2_100", "vgg16_bn_cifar"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "convnext_tiny")),
    ],
)
def test_dropped_residual_leaves_no_identity_path(name):
    kept, dropped = (convert_(build(name), MoDConfig(residual=residual, c=8)) for residual in (True, False))
    for ours, theirs in zip(mod_blocks(kept).values(), mod_blocks(dropped).values(), strict=True):
        assert has_residual(ours.conv_block, (1, ours.k, 8, 8)) == (name != "vgg16_bn_cifar")
        assert not has_residual(theirs.conv_block, (1, theirs.k, 8, 8))
        assert ours.state_dict().keys() == theirs.state_dict().keys()


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def test_residual_without_a_switch_raises():
    with pytest.raises(ValueError, match=r"residual=False is not supported for Stubborn: .* has_skip"):
        drop_residual_(Stubborn(), (1, 4, 8, 8))


def test_training_mode_is_unchanged():
    block = Stubborn().train()
    has_residual(block, (1, 4, 8, 8))
    assert block.training
    assert block.conv.training


def test_blocks_on_the_meta_device_are_supported():
    with torch.device("meta"):
        assert has_residual(Stubborn(), (1, 4, 8, 8))


def test_gating_is_not_a_residual_sum():
    from timm.layers.squeeze_excite import SqueezeExcite

    assert adds_to_its_input(Stubborn(), (1, 4, 8, 8))
    assert has_residual(SqueezeExcite(16), (1, 16, 8, 8))
    assert not adds_to_its_input(SqueezeExcite(16), (1, 16, 8, 8))


def test_hooks_are_not_called_and_attributes_are_unchanged():
    block, calls = Stubborn(), []
    block.register_forward_hook(lambda *_: calls.append(1))
    block.conv.register_forward_pre_hook(lambda *_: calls.append(1))
    before = dict(vars(block))
    assert has_residual(block, (1, 4, 8, 8))
    assert vars(block) == before
    assert not calls
