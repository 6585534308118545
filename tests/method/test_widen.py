"""`MoDConfig(fuse_to="all")`: the Conv-Block's last convolution writes all channels."""

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow import small_narrow
from small_resnet import small_resnet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn
from torch.nn.functional import dropout, relu

from cnnmod import MoDConfig, control_, convert_, mod_blocks
from cnnmod.method.widen import widened
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


def conv():
    return nn.Conv2d(8, 8, 3, padding=1)


class Block(nn.Module):
    """A block with two convolutions and a function of its input and of its layers."""

    def __init__(self, forward, *more):
        super().__init__()
        self.conv1, self.conv2 = conv(), conv()
        self.more = nn.ModuleList(more)
        self.register_buffer("shift", torch.full((1,), 5.0), persistent=False)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


class Activated(nn.Module):
    """A convolution with a norm and a function, as torchvision's BasicConv2d."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(8)

    def forward(self, x):
        return relu(self.norm(self.conv(x)))


def twice():
    shared = nn.ReLU()
    return nn.Sequential(conv(), shared, conv(), shared)


NOT_A_CHAIN, NO_LAST = "needs a block whose output is that of its layers", "needs a block whose last layer is a conv"


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (lambda: Block(lambda b, x: x + b.conv1(x) + b.conv2(x)), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.conv2(2 * b.conv1(x))), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.conv2(relu(b.conv1(x)))), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.conv2(dropout(b.conv1(x), 0.5, b.training))), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.conv2(b.conv1(b.conv1(x)))), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.conv2(b.conv1(x)) + b.shift), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x.flip(1) + b.conv2(b.conv1(x))), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: b.more[0](x + b.conv2(b.conv1(x))), nn.Dropout(0.5)), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: b.more[0](x + b.conv2(b.conv1(x))), nn.SiLU()), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: b.more[0](x + b.conv2(b.conv1(x))), nn.InstanceNorm2d(8)), NOT_A_CHAIN),
        (lambda: Block(lambda b, x: x + b.more[0](b.conv1(x)), Activated()), NOT_A_CHAIN),  # in a list
        (lambda: nn.Sequential(conv(), Activated()), NO_LAST),
        (lambda: nn.Sequential(twice()), NO_LAST),
        (lambda: nn.Sequential(conv(), nn.InstanceNorm2d(8)), NO_LAST),
        (lambda: nn.Sequential(conv(), nn.Conv2d(8, 8, 3, padding=1, groups=2)), NO_LAST),
    ],
)
def test_a_block_that_computes_more_than_a_chain_is_refused(block, reason):
    host = block()
    with pytest.raises(ValueError, match=reason):
        widened(host, host, 32, torch.empty(1, 8, 6, 6, device="meta"))


@pytest.mark.parametrize("training", [False, True])
def test_stochastic_depth_drops_the_branch_and_not_the_feature_map(training):
    """torchvision's EfficientNet-B0 has stochastic depth by default."""
    model = build("torchvision/efficientnet_b0").train(training)
    blocks = mod_blocks(convert_(model, FIRST))
    block = list(blocks.values())[-1].train()
    assert isinstance(block.activation, nn.Identity)
    assert any("StochasticDepth" in type(layer).__name__ for layer in block.conv_block.modules())
    x_NCHW = torch.rand(100, block.channels, 2, 2)
    assert block(x_NCHW).flatten(1).any(1).all()


def test_a_layer_is_not_overwritten_by_a_copy_of_the_same_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.act_, self.pop, self.conv = nn.ReLU(), nn.ReLU(), conv(), conv()

        def forward(self, x):
            return x + self.conv(self.act(self.act_(self.act(self.pop(x)))))

    branch, _ = widened(Named(), Named(), 32, torch.empty(1, 8, 6, 6, device="meta"))
    assert [type(layer) for layer in branch] == [nn.Conv2d, nn.ReLU, nn.ReLU, nn.ReLU, nn.Conv2d]


def test_a_network_on_the_meta_device_gets_the_same_blocks():
    with torch.device("meta"):
        model = build("resnet18_cifar")
    shapes = {name: value.shape for name, value in convert_(model, FIRST).state_dict().items()}
    assert shapes == {
        name: value.shape for name, value in convert_(build("resnet18_cifar"), FIRST).state_dict().items()
    }


def test_the_random_numbers_of_gpus_are_not_changed(monkeypatch):
    """`torch.manual_seed` also seeds all GPUs."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed was called"))
    assert converted("resnet18_cifar")


@pytest.mark.parametrize("context", [torch.device("meta"), nullcontext()], ids=["meta", "cpu"])
def test_it_works_on_the_meta_device_and_with_synchronized_norms(context):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build("resnet18_cifar"))
    with context:
        assert len(mod_blocks(convert_(model, FIRST))) == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/seresnet50", "fuse_to='all' needs a block whose last layer is a convolution without groups"),
        ("timm/convnext_atto", "fuse_to='all' needs a block whose output is that of its layers"),
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
    with pytest.raises(ValueError, match="fuse_to='all' needs scale='input' or 'none'"):
        MoDConfig(fuse_to="all", **fields)
