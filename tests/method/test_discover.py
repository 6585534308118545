import pytest
import torch
import torchvision
from torch import nn

from cnnmod import MoDConfig, convert_, find_modules, plan
from cnnmod.networks import build

RESNET50 = {f"layer{stage}": blocks for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3))}


def lengths(model):
    return [len(module) for module in find_modules(model)]


def test_resnet50_modules_are_found():
    expected = [[f"{layer}.{number}" for number in range(blocks)] for layer, blocks in RESNET50.items()]
    assert find_modules(build("resnet50")) == expected
    assert find_modules(torchvision.models.resnet50()) == expected


def test_flat_and_nested_mobilenetv2_have_the_same_modules():
    assert lengths(torchvision.models.mobilenet_v2()) == [1, 2, 3, 4, 3, 3, 1]
    assert lengths(build("mobilenetv2_100")) == [2, 3, 4, 3, 3, 1]  # the first block has another class


@pytest.mark.parametrize(
    "name", ["resnet34", pytest.param("mobilenetv2_100", marks=pytest.mark.slow), "convnext_tiny", "vgg16_bn_cifar"]
)
@pytest.mark.parametrize("placement", ["alternate", pytest.param("all", marks=pytest.mark.slow)])
def test_converted_network_has_the_modules_of_the_dense_network(name, placement):
    with torch.device("meta"):
        dense, converted = build(name), convert_(build(name), MoDConfig(placement=placement))
    assert find_modules(converted) == find_modules(dense)


class Unheard(nn.Module):
    def __init__(self, into, out, stride=1):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(into, out, 3, stride, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1), nn.ReLU())

    def forward(self, x):
        return self.second(self.first(x))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        deep = nn.ModuleDict({"a": nn.Sequential(Unheard(3, 32, 2), Unheard(32, 32), Unheard(32, 32))})
        self.deep = nn.ModuleList([deep])
        self.tail = nn.ModuleList([Unheard(32, 64, 2), Unheard(64, 64), Unheard(64, 64, 2)])

    def forward(self, x):
        x = self.deep[0]["a"](x)
        for block in self.tail:
            x = block(x)
        return x.mean((2, 3))


def test_modules_of_an_unknown_network_are_found():
    assert find_modules(Nested()) == [
        ["deep.0.a.0", "deep.0.a.1", "deep.0.a.2"],
        ["tail.0", "tail.1"],
        ["tail.2"],
    ]


def test_nothing_to_convert_lists_the_block_types():
    model = nn.Sequential(Unheard(3, 8), nn.AvgPool2d(2), Unheard(8, 16))
    types = r"Block types seen: Unheard: it changes its input's shape"
    with pytest.raises(ValueError, match=rf"Sequential has nothing to convert: .* {types}"):
        find_modules(model)
    with pytest.raises(ValueError, match=r"Block types seen: none"):
        find_modules(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 224 * 224, 2)))


def test_subclass_of_sequential_can_be_a_block():
    class Residual(nn.Sequential):
        def forward(self, input):
            return input + super().forward(input)

    def block():
        return Residual(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(block(), block(), block()))
    assert find_modules(model) == [["1.0", "1.1", "1.2"]]


def test_plain_sequentials_are_blocks_if_there_are_no_others():
    def block(into, out):
        return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())

    features = nn.Sequential(block(3, 16), block(16, 16), nn.MaxPool2d(2), block(16, 32), block(32, 32))
    assert find_modules(nn.Sequential(features, nn.Flatten())) == [["0.0", "0.1"], ["0.3", "0.4"]]
    assert find_modules(build("timm/convmixer_768_32"))[1][:2] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("name", ["rexnet_100", "resnest14d", "timm/dpn68"])
def test_parts_of_larger_blocks_are_not_modules(name):
    """The blocks change the shape or take several feature maps. Layers inside of blocks are not modules."""
    with torch.device("meta"):
        model = build(name)
    with pytest.raises(ValueError, match="nothing to convert"):
        find_modules(model)


def test_blocks_in_a_tree_are_found():
    assert ["level3.tree1.tree1", "level3.tree1.tree2"] in find_modules(build("dla34"))


def test_parallel_blocks_are_separate_modules():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 32, 1), Unheard(32, 32), Unheard(32, 32))
            self.classes, self.boxes = Unheard(32, 32), Unheard(32, 32)

        def forward(self, x):
            x = self.body(x)
            return self.classes(x), self.boxes(x)

    assert find_modules(Heads()) == [["body.1", "body.2"], ["classes"], ["boxes"]]


def test_consecutive_in_place_blocks_are_one_module():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return x.add_(self.second(self.first(x)))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), InPlace(), InPlace(), InPlace())
    assert find_modules(model) == [["1", "2", "3"]]


def test_parts_of_a_single_block_are_not_modules():
    """The first stage of nfnet_f0 has one block, which contains two consecutive squeeze-and-excitation layers."""
    with torch.device("meta"):
        model = build("nfnet_f0")
    kinds = {type(model.get_submodule(name)).__name__ for module in find_modules(model) for name in module}
    assert kinds == {"NormFreeBlock"}


def conv_net(conv, norm):
    def block(into, out):
        return nn.Sequential(conv(into, out, 3, padding=1), norm(out), nn.ReLU(), conv(out, out, 3, padding=1))

    return nn.Sequential(block(3, 16), block(16, 16), block(16, 16))


@pytest.mark.parametrize("run", [find_modules, plan, convert_])
def test_1d_and_3d_networks_raise(run):
    for conv, norm, example in (
        (nn.Conv1d, nn.BatchNorm1d, torch.rand(2, 3, 32)),
        (nn.Conv3d, nn.BatchNorm3d, torch.rand(2, 3, 8, 8, 8)),
    ):
        message = f"^cnnmod converts 2D convolutional networks; Sequential has {conv.__name__} layers$"
        for given in (example, None):
            with pytest.raises(ValueError, match=message):
                run(conv_net(conv, norm), example=given)
    with pytest.raises(ValueError, match="VideoResNet has Conv3DSimple and Conv3d layers"):
        run(torchvision.models.video.r3d_18())
    with pytest.raises(ValueError, match=r"example must be images \(N, C, H, W\), not \(3, 32, 32\)"):
        run(build("resnet18"), example=torch.rand(3, 32, 32))


def test_1d_convolutions_in_2d_networks_are_accepted():
    assert find_modules(build("timm/ecaresnet26t"))
