import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, mod_blocks, shrink
from cnnmod.method.fit import fit_


class Branches(nn.Module):
    """Concatenated branches with 20, 20 and 24 channels."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(64, width, 3, padding=1) for width in (20, 20, 24)])
        self.norm, self.depthwise = nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.end = nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return x + self.end(self.depthwise(self.norm(torch.cat([branch(x) for branch in self.branches], 1))))


def test_layers_are_rebuilt_for_their_input_width():
    host = Branches()
    narrow = shrink(host, 16)
    assert [narrow.norm.num_features, narrow.depthwise.groups, narrow.end.in_channels] == [4, 4, 4]
    output = fit_(narrow, host, torch.empty(1, 4, 9, 9, device="meta"))
    assert output.shape == (1, 4, 9, 9)
    assert [narrow.norm.num_features, narrow.depthwise.groups, narrow.end.in_channels] == [3, 3, 3]
    assert narrow(torch.rand(2, 4, 9, 9)).shape == (2, 4, 9, 9)


def test_fitting_layers_are_unchanged():
    host = nn.Sequential(nn.Conv2d(64, 128, 1), nn.BatchNorm2d(128))
    narrow = shrink(host, 16)
    layers = list(narrow.children())
    fit_(narrow, host, torch.empty(1, 4, 9, 9, device="meta"))
    assert all(now is before for now, before in zip(narrow.children(), layers, strict=True))
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_linear_layers_are_rebuilt_for_their_input_width():
    class Condition(nn.Module):
        """A block with a vector as a second input, as in diffusion networks."""

        def __init__(self):
            super().__init__()
            self.conv, self.embed = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(48, 32)

        def forward(self, x, vector, *, gain=1.0):
            return x + gain * self.conv(x) + self.embed(vector)[:, :, None, None]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Condition() for _ in range(4)])

        def forward(self, x):
            for block in self.blocks:
                x = block(x, x.new_ones(len(x), 48), gain=0.5)
            return x

    model = convert_(Network(), MoDConfig(c=8), example=torch.rand(1, 32, 8, 8))
    assert list(mod_blocks(model)) == ["blocks.1", "blocks.3"]
    assert mod_blocks(model)["blocks.1"].conv_block.embed.in_features == 48
    model(torch.rand(2, 32, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_block_that_cannot_be_fitted_raises():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 1)

        def forward(self, x):
            return self.conv(x).view(1, 8, 8, -1)

    host = Views()
    with pytest.raises(ValueError, match="Views does not run on an example"):
        fit_(shrink(host, 16), host, torch.empty(1, 4, 9, 9, device="meta"))


def test_layer_with_a_registered_rule_is_unchanged():
    class Own(nn.Conv2d):
        pass

    @shrink.register(Own)
    def _(layer, c):
        return Own(4, 4, 1)

    host = Branches()
    host.end = Own(64, 64, 1)
    with pytest.raises(ValueError, match="does not run on an example"):  # the input has 3 channels
        fit_(shrink(host, 16), host, torch.empty(1, 4, 9, 9, device="meta"))
