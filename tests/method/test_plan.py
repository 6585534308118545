from dataclasses import replace

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, convert_, mod_blocks, plan
from cnnmod.networks import build

EXAMPLE = torch.rand(1, 3, 64, 64)


def summary(made):
    return {block.name: (block.module, block.position, block.channels, block.k, block.reason) for block in made.blocks}


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet34", "vgg11_bn", "dla34")),
        *("resnet18", "vgg16_bn_cifar", "torchvision/mobilenet_v3_small", "dla46_c"),
    ],
)
def test_plan_equals_the_result_of_convert(name):
    model = build(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modules = list(model.modules())
    made = plan(model)
    assert list(model.modules()) == modules
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    converted = mod_blocks(convert_(model))
    assert made.mod_blocks == list(converted)
    assert [block.k for block in made.blocks if block.k is not None] == [block.k for block in converted.values()]


def test_plan_works_on_the_meta_device():
    with torch.device("meta"):
        model = build("resnet50")
    made = plan(model)
    assert made == plan(build("resnet50"))
    assert len(made.mod_blocks) == 1 + 2 + 3 + 1


def test_every_block_has_its_reason():
    def only_layer3(block, name):
        return "layer3" in name

    made = plan(build("resnet50"), MoDConfig(c=32), filter_fn=only_layer3)
    found = summary(made)
    assert made.c == 32
    assert found["layer1.0"] == (0, 0, 256, None, "first of its module")
    assert found["layer1.1"] == (0, 1, 256, None, "filter_fn")
    assert found["layer3.1"] == (2, 1, 1024, 32, "")
    assert found["layer3.2"] == (2, 2, 1024, None, "placement")
    assert [block.name for block in made.blocks if block.chosen] == made.mod_blocks


class Grid(nn.Module):
    """A block that works only at its original width."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x).view(-1, 8, 4, *x.shape[2:]).flatten(1, 2))


class Pair(nn.Sequential):
    """A block that works at any width."""


def mixed():
    pairs = (Pair(nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)) for _ in range(4))
    return nn.Sequential(nn.Conv2d(3, 32, 1), *(Grid() for _ in range(4)), *pairs)


class TestUnconvertibleBlocks:
    """Blocks that cannot be converted stay standard blocks."""

    def test_blocks_stay_standard_blocks(self, caplog):
        model = mixed()
        made = plan(model, example=EXAMPLE)
        assert made.mod_blocks == ["6", "8"]
        reason = summary(made)["2"][4]
        assert reason.startswith("its Conv-Block with k = 1 does not work: Grid does not run on an example")
        assert reason in str(made)
        convert_(model, example=EXAMPLE)
        assert list(mod_blocks(model)) == ["6", "8"]
        assert "2 of Sequential's blocks stay standard blocks: 2 (Grid): its Conv-Block" in caplog.text

    def test_blocks_named_in_placement_raise(self):
        with pytest.raises(ValueError, match=r"these blocks cannot be MoD blocks: 2 \(Grid\): its Conv-Block"):
            convert_(mixed(), MoDConfig(placement=("2", "6")), example=EXAMPLE)

    def test_convert_raises_if_no_block_can_be_a_mod_block(self):
        model = mixed()[:5]
        assert plan(model, example=EXAMPLE).mod_blocks == []
        with pytest.raises(ValueError, match=r"cannot be MoD blocks: 2 \(Grid\): .*; 4 \(Grid\): "):
            convert_(model, example=EXAMPLE)


@pytest.mark.parametrize(
    "name",
    [
        "timm/lowformer_b0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("maxvit_tiny_rw_224", "torchvision/maxvit_t")),
    ],
)
def test_convolutional_parts_of_attention_blocks_are_converted(name):
    """The parts with a residual connection become MoD blocks."""
    model = build(name)
    made = plan(model)
    assert made.mod_blocks
    assert all(part.endswith((".conv", ".mlp", ".local", ".MBconv")) for part in made.mod_blocks)
    convert_(model)
    assert all(mod_blocks(model)[part].k for part in made.mod_blocks)


def test_c_larger_than_every_width_raises():
    with pytest.raises(ValueError, match="c must be at most 512, the channels of the widest block, not 600"):
        plan(build("resnet18"), MoDConfig(c=600))


def test_prints_as_a_table():
    lines = str(plan(build("resnet18"))).splitlines()
    assert lines[0] == "ResNet: 4 MoD blocks, c = 64"
    assert len(lines) == 2 + 8


def test_prints_as_escaped_html_in_notebooks():
    made = plan(build("resnet18"))
    assert repr(made) == str(made)
    html = made._repr_html_()
    assert html.startswith("<table>\n<caption>ResNet: 4 MoD blocks, c = 64</caption>")
    assert html.count("<tr>") == 1 + 8
    odd = replace(made, network="<i>", blocks=(replace(made.blocks[0], kind="<b>", reason="x < y"),))
    assert "<i>" not in odd._repr_html_()
    assert "<b>" not in odd._repr_html_()
    assert "x &lt; y" in odd._repr_html_()


def test_random_state_is_unchanged():
    model = build("resnet18")
    state = torch.get_rng_state()
    plan(model)
    assert torch.equal(torch.get_rng_state(), state)
