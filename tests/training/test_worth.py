import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, control_
from cnnmod.deploy.forms import EagerForm
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.replay import recorded_for_replay, replayed_selections
from cnnmod.training.in_memory import ImagesInMemory
from cnnmod.training.recipes import recipe
from cnnmod.training.tasks import Classification
from cnnmod.training.worth import Decrease, Worth, _decrease, mod_worth

CLASSES, COUNT = 4, 400


class Channels(nn.Module):
    """Row r of an image is the value of channel r."""

    def forward(self, x_NCHW):
        return x_NCHW[:, 0, :, :1, None].contiguous()


class ByChannel(nn.Module):
    """The mean of channel r is the logit of class r."""

    def forward(self, x_NCHW):
        return x_NCHW.mean((2, 3))


def images(count=COUNT):
    """In an image of class r, row r has the second largest value, and row r + 1 the largest."""
    labels = torch.arange(count) % CLASSES
    rows = torch.eye(CLASSES)[labels] * 200 + torch.eye(CLASSES)[(labels + 1) % CLASSES] * 250
    return ImagesInMemory(
        rows.byte().view(count, 1, CLASSES, 1).expand(-1, -1, -1, CLASSES),
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
    assert str(worth).endswith("so choosing for each image is useful")
    assert model.training
    assert isinstance(model[1], MoDBlock)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_blocks_without_effect_are_idle():
    model = network()
    nn.init.zeros_(model[1].conv_block.weight)
    worth = mod_worth(model, images(), CLASSES, Classification())
    assert worth.without_blocks.points == 0
    assert str(worth).endswith(
        "it is 0.0 ± 0.0 points worse without the MoD blocks, so they are idle; use the control, which is faster"
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
        "top-1 is 80.0 % on 400 images; it is 5.0 ± 1.0 points worse without the MoD blocks, 0.4 ± 1.0 points worse "
        "with the selections and scores of other images, and 0.2 ± 1.0 points better with a fixed selection and fixed "
        "scores, so choosing for each image is not needed"
    )


def test_network_without_mod_blocks_raises():
    with pytest.raises(ValueError, match="has no MoD blocks"):
        mod_worth(control_(network()), images(), CLASSES, Classification())


def test_lowered_networks_raise():
    lowered = nn.Sequential(network()[0], EagerForm(network()[1]), network()[2])
    with pytest.raises(ValueError, match="use the network before lower"):
        mod_worth(lowered, images(), CLASSES, Classification())


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_give_no_conclusion(count):
    assert str(mod_worth(network(), images(count), CLASSES, Classification())).endswith(
        "too few images for a conclusion"
    )


def test_blocks_that_are_not_called_are_ignored():
    class WithSpare(nn.Sequential):
        def __init__(self):
            super().__init__(*network())
            self.spare = network()

        def forward(self, input):
            return self[2](self[1](self[0](input)))

    worth = mod_worth(WithSpare(), images(), CLASSES, Classification())
    assert worth == mod_worth(network(), images(), CLASSES, Classification())


def test_blocks_that_are_called_twice_raise():
    first, block, last = network()
    with pytest.raises(ValueError, match="called several times for an image"):
        mod_worth(nn.Sequential(first, block, block, last), images(), CLASSES, Classification())


def test_parts_without_labels_are_not_in_the_interval():
    parts = torch.tensor([10.0, 9.0, torch.nan, 11.0, 10.0])
    found = _decrease(parts)
    assert found.points == 10.0
    assert found == _decrease(parts[[0, 1, 3, 4]])


def test_mode_of_each_layer_is_restored():
    model = network().train()
    model[2].eval()
    mod_worth(model, images(40), CLASSES, Classification())
    assert [layer.training for layer in model] == [True, True, False]


def test_gains_of_positions_stay_with_a_fixed_selection():
    """Each position keeps its own gain, although the mean score is that of the channel."""
    block = MoDBlock(nn.Identity(), CLASSES, 2, MoDConfig(reduction=1, identity_start=True)).eval()
    assert block.gain_K is not None
    with torch.no_grad():
        block.gain_K.copy_(torch.tensor([1.0, -1.0]))
        x_NCHW = torch.rand(20, CLASSES, 2, 2)
        with recorded_for_replay(block) as recorded:
            block(x_NCHW)
        with replayed_selections(block, {"": recorded[""].fixed()}):
            score_NK, _ = block.select(x_NCHW)
    assert score_NK is not None
    assert (score_NK[:, 0] > 0.4).all()
    assert (score_NK[:, 1] < -0.4).all()
