import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, control_
from cnnmod.method.blocks import MoDBlock
from cnnmod.training.in_memory import ImagesInMemory
from cnnmod.training.recipes import recipe
from cnnmod.training.tasks import Classification
from cnnmod.training.worth import Decrease, Worth, mod_worth

CLASSES, COUNT = 4, 400


class Channels(nn.Module):
    """Row r of an image is the value of channel r."""

    def forward(self, x_NCHW):
        return x_NCHW[:, 0, :, :1, None].contiguous()


class ByChannel(nn.Module):
    """The mean of channel r is the logit of class r."""

    def forward(self, x_NCHW):
        return x_NCHW.mean((2, 3))


def images():
    """In an image of class r, row r has the second largest value, and row r + 1 the largest."""
    labels = torch.arange(COUNT) % CLASSES
    rows = torch.eye(CLASSES)[labels] * 200 + torch.eye(CLASSES)[(labels + 1) % CLASSES] * 250
    return ImagesInMemory(
        rows.byte().view(COUNT, 1, CLASSES, 1).expand(-1, -1, -1, CLASSES),
        labels,
        recipe("digits", [f"image_size={CLASSES}"]).images,
    )


def network(select="learned", order="score"):
    """A network whose MoD block removes the channel that it selects, so that the second largest one wins."""
    block = MoDBlock(
        nn.Conv2d(1, 1, 1, bias=False), CLASSES, 1, MoDConfig(reduction=1, select=select, fuse_to="original")
    )
    nn.init.constant_(block.conv_block.weight, -2.0)
    if select == "learned":
        nn.init.eye_(block.selector.reduce.weight)
        nn.init.eye_(block.selector.expand.weight)
    return nn.Sequential(Channels(), block, ByChannel())


def test_selection_that_decides_the_class_is_useful():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    worth = mod_worth(model, images(), CLASSES, Classification())
    assert (worth.score, worth.images, worth.measure) == (100.0, COUNT, "top-1")
    assert worth.without_blocks == Decrease(100.0, 0.0)
    assert worth.exchanged is not None
    assert 40 < worth.exchanged.points < 100  # one of four images gets the selection of its own class
    assert worth.fixed is not None
    assert 60 < worth.fixed.points < 80  # right for one of four classes
    assert str(worth).endswith("so the selection is useful")
    assert model.training
    assert isinstance(model[1], MoDBlock)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_blocks_without_effect_are_idle():
    model = network()
    nn.init.zeros_(model[1].conv_block.weight)
    worth = mod_worth(model, images(), CLASSES, Classification())
    assert worth.without_blocks.points == 0
    assert str(worth).endswith(
        "the MoD blocks are idle: the score without them is 0.0 ± 0.0 points lower, so use the control, which is faster"
    )


def test_worth_of_a_selection_is_measured_only_if_it_depends_on_the_image():
    worth = mod_worth(network("first"), images(), CLASSES, Classification())
    assert worth.exchanged is not None  # the scores depend on the image
    worth = mod_worth(network("random"), images(), CLASSES, Classification())
    assert worth.exchanged is None
    assert worth.fixed is None


def test_selection_within_the_interval_is_not_needed():
    def decrease(points):
        return Decrease(points, 1.0)

    text = str(Worth(400, "top-1", "%", 80.0, decrease(5.0), decrease(0.4), decrease(-0.2)))
    assert text == (
        "top-1 is 80.0 % on 400 images; it is 5.0 ± 1.0 points lower without the MoD blocks, 0.4 ± 1.0 points lower "
        "with the selections of other images, and -0.2 ± 1.0 points lower with a fixed selection, so the selection is "
        "not needed"
    )


def test_network_without_mod_blocks_raises():
    with pytest.raises(ValueError, match="has no MoD blocks"):
        mod_worth(control_(network()), images(), CLASSES, Classification())
