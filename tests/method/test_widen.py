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

from cnnmod import MoDConfig, convert_, mod_blocks
from cnnmod.networks import build

FIRST = MoDConfig(c=4, select="first", scale="input", fuse_to="all")


def converted(name="resnet50", config=FIRST, **arguments):
    return mod_blocks(convert_(build(name, **arguments), config))


def test_a_bottleneck_reads_k_channels_and_writes_all():
    block = converted()["layer1.1"]
    conv_block = block.conv_block
    assert [
        (conv.in_channels, conv.out_channels) for conv in (conv_block.conv1, conv_block.conv2, conv_block.conv3)
    ] == [
        (64, 16),
        (16, 16),
        (16, 256),
    ]
    assert isinstance(block.activation, nn.ReLU)
    assert isinstance(conv_block.act3, nn.Identity)
    assert not conv_block.bn3.weight.any()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([BasicBlock, Bottleneck]), st.sampled_from([2, 4, 8]), st.sampled_from(["none", "input"]))
def test_it_computes_the_hosts_block_with_a_narrow_branch(kind, c, scale):
    """The reference computes the branch layer by layer: activation(x + branch(score · first k channels of x))."""
    name = "resnet18_cifar" if kind is BasicBlock else "resnet50_cifar"
    config = MoDConfig(c=c, select="first", scale=scale, fuse_to="all")
    block = converted(name, config, channels=(16, 16, 16, 16), layers=(2, 1, 1, 1))["layer1.1"].eval()
    inner = block.conv_block
    assert isinstance(inner, kind)
    layers = [inner.conv1, inner.bn1, inner.act1, inner.conv2, inner.bn2]
    layers += [inner.act2, inner.conv3, inner.bn3] if kind is Bottleneck else []
    for norm in (layer for layer in layers if isinstance(layer, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x_NCHW = torch.randn(2, block.channels, 5, 6)
    k = block.channels // c
    score_NC = block.selector(x_NCHW).sigmoid() if scale == "input" else torch.ones(2, block.channels)
    branch = nn.Sequential(*copy.deepcopy(layers))
    expected = (x_NCHW + branch(x_NCHW[:, :k] * score_NC[:, :k, None, None])).relu()
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


@pytest.mark.parametrize("name", ["torchvision/vgg16_bn", "timm/mobilenetv2_100", "timm/resnext50_32x4d"])
def test_it_works_in_other_networks(name):
    blocks = converted(name)
    assert blocks
    for block in blocks.values():
        assert block.eval()(torch.rand(1, block.channels, 7, 7)).shape == (1, block.channels, 7, 7)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchvision/resnet18", "fuse_to='all' needs a last activation that is used once, but 'relu' is used 2 times"),
        ("timm/seresnet50", "fuse_to='all' is not supported for this block: a layer after its last convolution"),
        ("timm/convnext_atto", "fuse_to='all' is not supported for this block: a layer after its last convolution"),
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
