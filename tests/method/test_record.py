import pytest
import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig, convert_, mod_blocks
from cnnmod.method import blocks as blocks_module
from cnnmod.method.record import recorded_selection
from small import digits_resnet

EXAMPLE = torch.rand(2, 1, 8, 8)


@pytest.fixture
def model():
    return convert_(digits_resnet(), MoDConfig(c=4, reduction=2), example=EXAMPLE).eval()


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_recorded_channels_are_those_that_the_blocks_use(model, monkeypatch):
    used = []
    plain = blocks_module.gather_channels

    def gather(x_NCHW, index_NK):
        used.append(index_NK)
        return plain(x_NCHW, index_NK)

    monkeypatch.setattr(blocks_module, "gather_channels", gather)
    with recorded_selection(model) as selected:
        model(EXAMPLE)
    assert list(selected) == list(mod_blocks(model))
    assert len(used) == len(selected) > 1
    for (index_NK,), theirs_NK in zip(selected.values(), used, strict=True):
        assert torch.equal(index_NK, theirs_NK)
    assert selected["layer1.1"][0].shape == (2, 4)


def test_every_call_adds_one_entry(model):
    with recorded_selection(model) as selected:
        for count in (1, 2, 3):
            model(torch.rand(count, 1, 8, 8))
    assert {tuple(map(len, indices)) for indices in selected.values()} == {(1, 2, 3)}


def test_output_is_unchanged_and_hooks_are_removed(model):
    before = model(EXAMPLE)
    with recorded_selection(model) as selected:
        assert torch.equal(model(EXAMPLE), before)
        assert hooks(model) == len(selected)
    assert hooks(model) == 0
    model(EXAMPLE)
    assert {len(indices) for indices in selected.values()} == {1}


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(RuntimeError), recorded_selection(model):
        model(torch.rand(1, 2, 8, 8))
    assert hooks(model) == 0


def test_nhwc_block_selects_the_same_channels():
    """A block with the layout NHWC selects the same channels as with NCHW."""
    block = MoDBlock(nn.Identity(), 16, 4, layout="NHWC").eval()
    x_NCHW = torch.rand(2, 16, 5, 7)
    with recorded_selection(nn.Sequential(block)) as selected:
        block(x_NCHW.movedim(1, 3))
    assert torch.equal(selected["0"][0], block.select(x_NCHW)[1])


@pytest.mark.parametrize("select", ["first", "random"])
def test_fixed_selections_are_recorded_for_each_image(select):
    block = MoDBlock(nn.Identity(), 16, 4, MoDConfig(select=select)).eval()
    with recorded_selection(nn.Sequential(block)) as selected:
        block(torch.rand(3, 16, 5, 5))
    expected_K = torch.arange(4) if select == "first" else block.fixed_index_K
    assert torch.equal(selected["0"][0], expected_K.repeat(3, 1))


def test_network_without_mod_blocks_records_nothing():
    with recorded_selection(digits_resnet()) as selected:
        assert selected == {}
