import math

import pytest
import torch

from cnnmod import MoDBlock, MoDConfig, convert_, mod_blocks
from cnnmod.deploy.parity import check_agreement, check_parity, tied
from cnnmod.deploy.selector import SELECTED
from cnnmod.method.record import recorded_selection
from conftest import trained_norms_
from small import digits_resnet

EXAMPLE = torch.rand(4, 1, 8, 8)


def eager(model):
    """What a runtime gives, from the network itself."""

    def run(images_NCHW):
        with torch.no_grad(), recorded_selection(model) as selected:
            logits = model(images_NCHW)
        return {"logits": logits} | {f"{block}{SELECTED}": index for block, (index,) in selected.items()}

    return run


def network(**fields):
    config = MoDConfig(**({"c": 4, "reduction": 2} | fields))
    return trained_norms_(convert_(digits_resnet(), config, example=EXAMPLE))


def test_itself():
    model = network()
    parity = check_parity(model, eager(model), EXAMPLE, (1, 3))
    assert (parity.largest_error, parity.selection_agreement) == (0, 1)


def test_other_weights_and_other_selections():
    model = network()
    head = network()
    head.load_state_dict(model.state_dict())
    head.fc.bias.data[0] += 1
    parity = check_parity(model, eager(head), EXAMPLE, (1, 3))
    assert parity.largest_error > 1e-3
    assert parity.selection_agreement == 1
    other = network()
    other.load_state_dict(model.state_dict())
    for block in mod_blocks(other).values():
        block.selector.expand.weight.data.neg_()
    assert check_parity(model, eager(other), EXAMPLE, (1, 3)).selection_agreement < 0.9


def test_agreement():
    model = network()
    own = check_agreement(model, eager(model), EXAMPLE.split(3))
    assert (own.images, own.top1, own.selection, own.selection_in_order) == (4, 1, 1, 1)

    def turned(images_NCHW):
        """The same channels in another order, and the class with the lowest logit."""
        found = eager(model)(images_NCHW)
        return {name: -value if name == "logits" else value.roll(1, 1) for name, value in found.items()}

    other = check_agreement(model, turned, EXAMPLE.split(3))
    assert (other.top1, other.selection) == (0, 1)
    assert other.selection_in_order < 0.1


@pytest.mark.parametrize("order", ["score", "index"])
def test_the_order_counts_where_the_conv_block_sees_it(order):
    model = network(order=order)
    plain = eager(model)

    def backwards(images_NCHW):
        return {name: one.flip(1) if name.endswith(SELECTED) else one for name, one in plain(images_NCHW).items()}

    agreement = check_parity(model, backwards, EXAMPLE, (3,)).selection_agreement
    assert agreement == 1 if order == "index" else agreement < 0.1


def test_where_no_image_selects_alike_nothing_was_compared():
    model = network()
    plain = eager(model)

    def others(images_NCHW):
        return {name: 1 - one if name.endswith(SELECTED) else one for name, one in plain(images_NCHW).items()}

    assert check_parity(model, others, EXAMPLE, (1, 3)).largest_error == math.inf


def test_images_that_select_otherwise_are_not_compared():
    model = network()
    plain = eager(model)

    def first_is_other(images_NCHW):
        found = plain(images_NCHW)
        found["logits"][0] += 1
        found[f"layer1.1{SELECTED}"][0, 0] = -1
        return found

    parity = check_parity(model, first_is_other, EXAMPLE, (2,))
    assert parity.largest_error == 0
    assert 0.9 < parity.selection_agreement < 1


@pytest.mark.parametrize("call", [0, 1, 2])
def test_what_is_not_a_number_is_an_error_on_whichever_input(call):
    model = network()
    plain, calls = eager(model), iter(range(3))

    def spoilt(images_NCHW):
        found = plain(images_NCHW)
        found["logits"] += math.nan if next(calls) == call else 0
        return found

    parity = check_parity(model, spoilt, EXAMPLE, (1, 3))
    assert (parity.largest_error, parity.seed) == (math.inf, [0, 1, -1][call])


def test_a_network_that_says_nothing_of_a_black_image():
    """Without biases every logit is 0, and the largest output is no unit."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), torch.nn.Flatten())
    assert check_parity(model, eager(model), EXAMPLE, (1,)).largest_error == 0


@pytest.mark.parametrize("order", ["score", "index"])
@pytest.mark.parametrize("c", [4, 5])
def test_tied_scores_betray_another_order_of_ties(order, c, monkeypatch):
    model = network(order=order, c=c)
    ours = tied(model)
    plain = eager(ours)
    weight = mod_blocks(ours)["layer1.1"].selector.expand.weight
    assert not torch.equal(weight, mod_blocks(model)["layer1.1"].selector.expand.weight)
    assert check_parity(ours, plain, EXAMPLE, (2,)).selection_agreement == 1

    def ties_to_the_higher_index(self, x_NCHW):
        logit_NC = self.selector(x_NCHW)
        index_NK = self.channels - 1 - logit_NC.flip(1).sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        return logit_NC.gather(1, index_NK).sigmoid(), index_NK

    def run(images_NCHW):
        with monkeypatch.context() as patch:
            patch.setattr(MoDBlock, "_select", ties_to_the_higher_index)
            return plain(images_NCHW)

    for count in (1, 2):
        assert check_parity(ours, run, EXAMPLE, (count,)).selection_agreement < 0.9


@pytest.mark.parametrize("c", [4, 5, 16])
def test_of_tied_scores_the_last_selected_ties_with_the_first_that_is_not(c):
    for block in mod_blocks(tied(network(c=c))).values():
        sorted_NC = block.selector(torch.rand(8, block.channels, 4, 4)).sort(1, descending=True).values
        assert (sorted_NC[:, block.k - 1] == sorted_NC[:, block.k]).float().mean() > 0.5
