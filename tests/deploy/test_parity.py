import torch

from cnnmod import MoDConfig, convert_, mod_blocks
from cnnmod.deploy.parity import check_agreement, check_parity, tied
from cnnmod.deploy.selector import SELECTED
from cnnmod.method.record import recorded_selection
from conftest import trained_norms_
from small import digits_resnet

EXAMPLE = torch.rand(4, 1, 8, 8)


def eager(model):
    """What a runtime gives, from the network itself."""

    def run(images_NCHW):
        with torch.inference_mode(), recorded_selection(model) as selected:
            logits = model(images_NCHW)
        return {"logits": logits} | {f"{block}{SELECTED}": index for block, (index,) in selected.items()}

    return run


def network():
    return trained_norms_(convert_(digits_resnet(), MoDConfig(c=4, reduction=2), example=EXAMPLE))


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


def test_tied_scores_tie_in_pairs():
    model = network()
    block = mod_blocks(tied(model))["layer1.1"]
    logit_NC = block.selector(torch.rand(2, 16, 8, 8))
    assert torch.equal(logit_NC[:, ::2], logit_NC[:, 1::2])
    assert not torch.equal(mod_blocks(model)["layer1.1"].selector.expand.weight, block.selector.expand.weight)
