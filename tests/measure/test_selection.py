import pytest
import torch
from torch import nn

from cnnmod import MoDConfig
from cnnmod.measure.selection import inspect_selection
from cnnmod.method.blocks import MoDBlock
from cnnmod.report.selection import selection_figure
from cnnmod.report.table import selection_table
from cnnmod.training.in_memory import ImagesInMemory
from cnnmod.training.recipes import recipe

CLASSES, COUNT = 16, 80
CONFIG = MoDConfig(c=16, reduction=1)


class Channels(nn.Module):
    """Convert an image to a feature map in which channel r has the value of row r."""

    def forward(self, x_NCHW):
        return x_NCHW[:, 0, :, :1, None].expand(-1, -1, 4, 4).contiguous()


def network(config=CONFIG):
    block = MoDBlock(nn.Conv2d(1, 1, 1), CLASSES, 1, config)
    if config.select == "learned":
        nn.init.eye_(block.selector.reduce.weight)
        nn.init.eye_(block.selector.expand.weight)
    return nn.Sequential(Channels(), block).train()


def images():
    """Return images in which the row of the class is bright, so that an identity selector selects that channel."""
    labels = torch.arange(COUNT) % CLASSES
    pixels = (torch.eye(CLASSES) * 255).byte()[labels].view(COUNT, 1, CLASSES, 1).expand(-1, -1, -1, CLASSES)
    return ImagesInMemory(pixels, labels, recipe("digits", [f"image_size={CLASSES}"]).images)


def test_selection_that_depends_on_the_image_has_entropy_1():
    model = network()
    (found,) = inspect_selection(model, images(), CLASSES, batch_size=32)
    assert (found.block, found.channels, found.k) == ("1", CLASSES, 1)
    assert found.images == [5] * CLASSES
    assert torch.equal(found.shares, torch.eye(CLASSES))
    assert found.entropy == pytest.approx(1)
    assert found.most_selected_share == 1 / CLASSES
    assert model.training
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("select", ["first", "random"])
def test_fixed_selection_has_entropy_0(select):
    (found,) = inspect_selection(network(MoDConfig(c=16, select=select)), images(), CLASSES)
    assert found.entropy == pytest.approx(0)
    assert found.most_selected_share == 1


def test_selection_table_and_figure_are_written(tmp_path):
    found = inspect_selection(network(), images(), CLASSES)
    table = selection_table(tmp_path, found)
    assert table.rows == [["1", "16", "1", "1.000", "6.2"]]
    selection_figure(found, [f"class {number}" for number in range(CLASSES)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_network_without_mod_blocks_raises():
    with pytest.raises(ValueError, match="Sequential has no MoD blocks, so it selects no channels"):
        inspect_selection(nn.Sequential(Channels()), images(), CLASSES)
