"""`MoDConfig(fuse_to="all")`: the Conv-Block's last convolution writes all channels."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow import small_narrow
from small_resnet import small_resnet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from cnnmod import MoDConfig, control_, convert_, mod_blocks
from cnnmod.networks import build

FIRST = MoDConfig(c=4, select="first", scale="input", fuse_to="all")


def converted(name="resnet50", config=FIRST, **arguments):
    return mod_blocks(convert_(build(name, **arguments), config))


@pytest.mark.parametrize("name", ["resnet50", "torchvision/resnet50"])
def test_a_bottleneck_reads_k_channels_and_writes_all(name):
    """torchvision's block calls one ReLU three times."""
    block = converted(name)["layer1.1"]
    convs = [layer for layer in block.conv_block.children() if isinstance(layer, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(64, 16), (16, 16), (16, 256)]
    assert [type(layer) for layer in block.conv_block.children()] == [
        *[nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2,
        *[nn.Conv2d, nn.BatchNorm2d],
    ]
    assert isinstance(block.activation, nn.ReLU)
    assert not block.conv_block.bn3.weight.any()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([BasicBlock, Bottleneck]), st.sampled_from([2, 4, 8]), st.sampled_from(["none", "input"]))
def test_it_computes_the_hosts_block_with_a_narrow_branch(kind, c, scale):
    """The host block with another branch: activation(x + branch(score · first k channels of x))."""
    name = "resnet18_cifar" if kind is BasicBlock else "resnet50_cifar"
    config = MoDConfig(c=c, select="first", scale=scale, fuse_to="all")
    block = converted(name, config, channels=(16, 16, 16, 16), layers=(2, 1, 1, 1))["layer1.1"].eval()
    for norm in (layer for layer in block.conv_block.children() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x_NCHW = torch.randn(2, block.channels, 5, 6)
    k = block.channels // c
    score_NC = block.selector(x_NCHW).sigmoid() if scale == "input" else torch.ones(2, block.channels)
    assert len(list(block.conv_block.children())) == (5 if kind is BasicBlock else 8)
    expected = (x_NCHW + block.conv_block(x_NCHW[:, :k] * score_NC[:, :k, None, None])).relu()
    torch.testing.assert_close(block(x_NCHW), expected)


@pytest.mark.parametrize("gate", ["none", "first", "all"])
def test_it_computes_the_prototype_of_the_experiments(gate):
    """`benchmarks/pays/cifar100-narrow.json` was run with the blocks of benchmarks/narrow.py."""
    arguments = {"channels": (16, 32), "layers": (2, 2), "bottleneck": True}
    prototype = small_narrow(gate, **arguments)
    config = MoDConfig(
        c=4,
        reduction=4,
        select="first",
        scale="none" if gate == "none" else "input",
        fuse_to="all",
        candidates=1 if gate == "first" else None,
    )
    model = convert_(small_resnet(**arguments), config, example=torch.rand(1, 3, 32, 32))
    for value in prototype.state_dict().values():
        value.copy_(torch.rand(value.shape))
    assert sum(map(torch.numel, model.parameters())) == sum(map(torch.numel, prototype.parameters()))
    model.load_state_dict(dict(zip(_in_order(model), _in_order(prototype).values(), strict=True)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(images), prototype.eval()(images))


def _in_order(model):
    """Return the values of a network by name, with the selectors after all other layers."""
    values = model.state_dict()
    return {name: values[name] for name in sorted(values, key=lambda name: "selector" in name)}


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/vgg16_bn",
        "timm/mobilenetv2_100",
        "timm/efficientnet_b0",
        "timm/regnety_002",
        "timm/resnext50_32x4d",
    ],
)
def test_it_works_in_other_networks(name):
    model = build(name).eval()
    images = torch.rand(1, 3, 64, 64)
    convert_(model, FIRST)
    with torch.inference_mode():
        result = model(images)
        torch.testing.assert_close(result, control_(copy.deepcopy(model))(images))  # it starts as the identity
    for block in mod_blocks(model).values():
        norm = [layer for layer in block.conv_block.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
        assert norm.num_features == block.channels
        assert not norm.weight.any()


class Branches(nn.Module):
    """A block of two branches."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.conv1(x) + self.conv2(x)


class Scaled(Branches):
    """A block with a function between its layers."""

    def forward(self, x):
        return x + self.conv2(2 * self.conv1(x))


@pytest.mark.parametrize("block", [Branches, Scaled])
def test_a_block_that_computes_more_than_its_layers_is_refused(block):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), block(), block())
    with pytest.raises(ValueError, match="fuse_to='all' needs a block that is a chain of layers"):
        convert_(model, FIRST, example=torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/seresnet50", "fuse_to='all' needs a last convolution without groups, followed by at most a norm"),
        ("timm/convnext_atto", "fuse_to='all' needs a block that is a chain of layers"),
    ],
)
def test_blocks_that_cannot_write_all_channels_are_refused(name, reason):
    model = build(name)
    with pytest.raises(ValueError, match=reason):
        convert_(model, FIRST)
    assert not mod_blocks(model)


@pytest.mark.parametrize(
    "fields",
    [{}, {"scale": "input", "identity_start": True}, {"select": "first", "scale": "output"}],
    ids=str,
)
def test_options_that_cannot_be_combined_are_refused(fields):
    with pytest.raises(ValueError, match="fuse_to='all' needs scale='input' or 'none', and identity_start=False"):
        MoDConfig(fuse_to="all", **fields)
